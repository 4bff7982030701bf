//! Parses and evaluates an expression in one pass.
//!
//! ```text
//! sum      = product (("+" | "-") product)*
//! product  = sign (("*" | "/" | "%") sign)*
//! sign     = ("-" | "+") sign | power
//! power    = atom ("^" sign)?             so -2^2 is -4, and 2^3^2 is 2^9
//! atom     = number | "(" sum ")" | function "(" sum ("," sum)* ")"
//! number   = 12 | 1.5 | .5 | 1.5e-3
//! function = sqrt | abs | round | min | max
//! ```
//!
//! The parser rejects text that is not an expression, nesting deeper than 64, division by zero, and results
//! that are not finite real numbers. Each error has a position, in characters counted from 1.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::fmt;

/// How deep parentheses, signs and powers may be nested. A level takes some hundred bytes of a stack of
/// 128 KiB, and no meaningful expression comes near.
const DEPTH_MAX: usize = 64;

/// An error in an expression, with its position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ExpressionError {
    position: usize,
    message: String,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at position {}: {}", self.position, self.message)
    }
}

/// The value of an expression: a finite number.
pub(crate) fn evaluate(expression: &str) -> Result<f64, ExpressionError> {
    let mut parser = Parser { text: expression, rest: expression, depth: 0 };
    let value = parser.sum()?;
    match parser.peek() {
        None => Ok(value),
        Some(character) => {
            Err(parser.error_at(parser.position(), format!("`{character}` is not expected here")))
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// The text that has not been read yet.
    rest: &'a str,
    depth: usize,
}

/// A position in the text, as the number of bytes from there to the end.
#[derive(Clone, Copy)]
struct Position(usize);

impl<'a> Parser<'a> {
    fn sum(&mut self) -> Result<f64, ExpressionError> {
        let mut value = self.product()?;
        while let Some((operator, position)) = self.accept(&['+', '-']) {
            let right = self.product()?;
            let result = if operator == '+' { value + right } else { value - right };
            value = self.check_finite(position, result)?;
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64, ExpressionError> {
        let mut value = self.sign()?;
        while let Some((operator, position)) = self.accept(&['*', '/', '%']) {
            let right = self.sign()?;
            if operator != '*' && right == 0.0 {
                return Err(self.error_at(position, "division by zero"));
            }
            let result = match operator {
                '*' => value * right,
                '/' => value / right,
                _ => value % right,
            };
            value = self.check_finite(position, result)?;
        }
        Ok(value)
    }

    fn sign(&mut self) -> Result<f64, ExpressionError> {
        match self.accept(&['-', '+']) {
            Some(('-', _)) => Ok(-self.nested(Self::sign)?),
            Some(_) => self.nested(Self::sign),
            None => self.power(),
        }
    }

    fn power(&mut self) -> Result<f64, ExpressionError> {
        let base = self.atom()?;
        let Some((_, position)) = self.accept(&['^']) else {
            return Ok(base);
        };
        let exponent = self.nested(Self::sign)?;
        if base == 0.0 && exponent < 0.0 {
            return Err(self.error_at(position, "division by zero"));
        }
        self.check_finite(position, libm::pow(base, exponent))
    }

    fn atom(&mut self) -> Result<f64, ExpressionError> {
        if self.accept(&['(']).is_some() {
            let value = self.nested(Self::sum)?;
            self.expect_closing_parenthesis()?;
            return Ok(value);
        }
        match self.peek() {
            Some('0'..='9' | '.') => self.number(),
            Some('a'..='z' | 'A'..='Z') => self.function(),
            _ => Err(self.unexpected("a number")),
        }
    }

    fn number(&mut self) -> Result<f64, ExpressionError> {
        let is_digit = |character: char| character.is_ascii_digit();
        let position = self.position();
        let mut remaining =
            self.rest.trim_start_matches(|character| is_digit(character) || character == '.');
        if let Some(exponent) = remaining.strip_prefix(['e', 'E']) {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.starts_with(is_digit) {
                remaining = digits.trim_start_matches(is_digit);
            }
        }
        let number = self.advance_to(remaining);
        match number.parse() {
            Ok(value) => self.check_finite(position, value),
            Err(_) => Err(self.error_at(position, format!("`{number}` is not a number"))),
        }
    }

    fn function(&mut self) -> Result<f64, ExpressionError> {
        let position = self.position();
        let name = self.advance_to(
            self.rest.trim_start_matches(|character: char| character.is_ascii_alphanumeric()),
        );
        if !["sqrt", "abs", "round", "min", "max"].contains(&name) {
            let message = format!("`{name}` is not one of sqrt, abs, round, min, max");
            return Err(self.error_at(position, message));
        }
        if self.accept(&['(']).is_none() {
            return Err(self.unexpected("`(`"));
        }
        let mut arguments = vec![self.nested(Self::sum)?];
        while self.accept(&[',']).is_some() {
            arguments.push(self.nested(Self::sum)?);
        }
        self.expect_closing_parenthesis()?;
        match (name, arguments.as_slice()) {
            ("sqrt", [value]) => self.check_finite(position, libm::sqrt(*value)),
            ("abs", [value]) => Ok(value.abs()),
            ("round", [value]) => Ok(libm::round(*value)),
            ("min", values) => Ok(values.iter().copied().fold(f64::INFINITY, f64::min)),
            ("max", values) => Ok(values.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            _ => Err(self.error_at(position, format!("`{name}` takes one argument"))),
        }
    }

    /// Applies a rule one level deeper. Fails beyond [`DEPTH_MAX`].
    fn nested(
        &mut self,
        rule: impl FnOnce(&mut Self) -> Result<f64, ExpressionError>,
    ) -> Result<f64, ExpressionError> {
        if self.depth == DEPTH_MAX {
            return Err(self.error_at(self.position(), "this is nested too deeply"));
        }
        self.depth += 1;
        let value = rule(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn check_finite(&self, position: Position, value: f64) -> Result<f64, ExpressionError> {
        if value.is_nan() {
            Err(self.error_at(position, "the result is not a real number"))
        } else if value.is_infinite() {
            Err(self.error_at(position, "the result is too large"))
        } else {
            Ok(value)
        }
    }

    fn expect_closing_parenthesis(&mut self) -> Result<(), ExpressionError> {
        match self.accept(&[')']) {
            Some(_) => Ok(()),
            None => Err(self.unexpected("`)`")),
        }
    }

    fn unexpected(&mut self, expected: &str) -> ExpressionError {
        let message = match self.peek() {
            Some(character) => format!("expected {expected}, not `{character}`"),
            None => format!("expected {expected}, but here the expression ends"),
        };
        self.error_at(self.position(), message)
    }

    /// Reads the next character if it is one of these.
    fn accept(&mut self, characters: &[char]) -> Option<(char, Position)> {
        let found = self.peek().filter(|next| characters.contains(next))?;
        let position = self.position();
        self.advance_to(self.rest.strip_prefix(found)?);
        Some((found, position))
    }

    /// The next character that is not a space.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    /// Advances to `remaining`, a suffix of the unread text, and returns the text before it.
    fn advance_to(&mut self, remaining: &'a str) -> &'a str {
        let length = self.rest.len().saturating_sub(remaining.len());
        let (read, _) = self.rest.split_at_checked(length).unwrap_or_default();
        self.rest = remaining;
        read
    }

    fn position(&self) -> Position {
        Position(self.rest.len())
    }

    fn error_at(&self, position: Position, message: impl Into<String>) -> ExpressionError {
        let before = self.text.len().saturating_sub(position.0);
        let position =
            self.text.char_indices().take_while(|(index, _)| *index < before).count() + 1;
        ExpressionError { position, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::string::ToString;

    #[test]
    fn expressions_have_values() {
        for (expression, value) in [
            ("1", 1.0),
            (" 1.5 ", 1.5),
            (".5 + 1.", 1.5),
            ("1.5e3", 1500.0),
            ("2E-2", 0.02),
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("100 / 10 / 5", 2.0),
            ("7 % 4", 3.0),
            ("-7 % 4", -3.0),
            ("-2 ^ 2", -4.0),
            ("(-2) ^ 2", 4.0),
            ("2 ^ 3 ^ 2", 512.0),
            ("2 ^ -1", 0.5),
            ("--1 - -+1", 2.0),
            ("0.1 + 0.2", 0.1 + 0.2),
            ("sqrt(2 + 2)", 2.0),
            ("abs(-3) + round(2.5) + round (-2.5)", 3.0),
            ("min(3, 1, 2) + max(3, 1, 2)", 4.0),
            ("max(sqrt(16), min(9))", 9.0),
        ] {
            assert_eq!(evaluate(expression), Ok(value), "{expression}");
        }
    }

    #[test]
    fn problems_say_where() {
        for (expression, problem) in [
            ("", "at position 1: expected a number, but here the expression ends"),
            ("1 +", "at position 4: expected a number, but here the expression ends"),
            ("1 + * 2", "at position 5: expected a number, not `*`"),
            ("2 × 3", "at position 3: `×` is not expected here"),
            ("× + €", "at position 1: expected a number, not `×`"),
            ("1 2", "at position 3: `2` is not expected here"),
            ("1.2.3", "at position 1: `1.2.3` is not a number"),
            (".", "at position 1: `.` is not a number"),
            ("2e", "at position 2: `e` is not expected here"),
            ("(1 + 2", "at position 7: expected `)`, but here the expression ends"),
            ("1)", "at position 2: `)` is not expected here"),
            ("1 + sin(2)", "at position 5: `sin` is not one of sqrt, abs, round, min, max"),
            ("sqrt 2", "at position 6: expected `(`, not `2`"),
            ("sqrt(1, 2)", "at position 1: `sqrt` takes one argument"),
            ("min()", "at position 5: expected a number, not `)`"),
            ("1 / 0", "at position 3: division by zero"),
            ("1 % (2 - 2)", "at position 3: division by zero"),
            ("0 ^ -1", "at position 3: division by zero"),
            ("sqrt(-1)", "at position 1: the result is not a real number"),
            ("(-8) ^ .5", "at position 6: the result is not a real number"),
            ("1e999", "at position 1: the result is too large"),
            ("1e308 * 10", "at position 7: the result is too large"),
            ("10 ^ 400", "at position 4: the result is too large"),
            ("ü", "at position 1: expected a number, not `ü`"),
        ] {
            let found = evaluate(expression).map_err(|problem| problem.to_string());
            assert_eq!(found, Err(problem.to_owned()), "{expression}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth| "(".repeat(depth) + "1" + &")".repeat(depth);
        assert_eq!(evaluate(&nested(64)), Ok(1.0));
        for expression in [
            nested(65),
            nested(1_000_000),
            "-".repeat(1_000_000),
            "2^".repeat(1_000_000),
            "abs(".repeat(1_000_000),
        ] {
            let problem = evaluate(&expression).unwrap_err();
            assert_eq!(problem.message, "this is nested too deeply");
        }
    }

    #[test]
    fn long_expressions_are_fine() {
        assert_eq!(evaluate(&("1+".repeat(1_000_000) + "1")), Ok(1_000_001.0));
    }
}
