//! A foreign component: ordinary functions with every kind of type, and no Wardgate role.

wit_bindgen::generate!({
    inline: "
        package elsewhere:kinds@1.0.0;
        interface values {
            record sides { left: s64, right: option<u8> }
            variant form { dot, line(f32), box(sides), held(option<string>) }
            enum day { monday, sunday }
            flags way { quick, quiet, cheap }
            record everything {
                truth: bool, small: s8, large: u64, ratio: f64, letter: char, text: string,
                raw: list<u8>, sides: list<sides>, pair: tuple<day, form>, ways: way,
                deep: option<option<u32>>, outcome: result<u16, string>,
            }
            echo: func(it: everything, more: option<list<form>>) -> everything;
            divide: func(dividend: s32, divisor: s32) -> result<s32, string>;
            not-a-number: func() -> f64;
            check: func(day: day) -> result<_, form>;
            nothing: func();
        }
        world kinds { export values; export shout: func(text: string) -> string; }
    ",
});

use exports::elsewhere::kinds::values::{Day, Everything, Form, Guest as Values};

struct Kinds;

impl Guest for Kinds {
    fn shout(text: String) -> String {
        text.to_uppercase()
    }
}

impl Values for Kinds {
    fn echo(it: Everything, _: Option<Vec<Form>>) -> Everything {
        it
    }

    fn divide(dividend: i32, divisor: i32) -> Result<i32, String> {
        dividend.checked_div(divisor).ok_or_else(|| "nothing is divided by zero".into())
    }

    fn not_a_number() -> f64 {
        f64::NAN
    }

    fn check(day: Day) -> Result<(), Form> {
        match day {
            Day::Monday => Ok(()),
            Day::Sunday => Err(Form::Held(Some("closed".into()))),
        }
    }

    fn nothing() {}
}

export!(Kinds);
