//! Characters that have no shape of their own, or change how the text around them is shown: with them, a text from outside
//! can look like another one.

/// Whether a character is invisible or changes the direction of a text.
pub(crate) fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}'
    )
}
