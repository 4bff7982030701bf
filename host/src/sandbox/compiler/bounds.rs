//! Bounds on a component's structure, checked in one pass without recursion before it is compiled.

use wasmparser::{Parser, Payload};

/// How deep components and modules may be nested. Tool chains nest two or three deep, compositions of compositions a
/// few more. The compiler's memory grows with the square of the depth.
const DEPTH_MAX: usize = 32;

/// Maximum number of core modules and components within a component.
const PARTS_MAX: usize = 1_000;

/// Maximum number of functions with a body, in all core modules together. Python has some 30,000.
const FUNCTIONS_MAX: u64 = 500_000;

/// Checks a component, and returns the bound that it exceeds. Malformed bytes pass: the compiler reports them.
pub(super) fn check(component: &[u8]) -> Result<(), String> {
    let (mut depth, mut parts, mut functions) = (0_usize, 0_usize, 0_u64);
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => {
                depth += 1;
                parts += 1;
            }
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::FunctionSection(section)) => functions += u64::from(section.count()),
            Ok(_) => {}
            Err(_) => break,
        }
        if depth > DEPTH_MAX {
            return Err(format!("{DEPTH_MAX} levels of nested components"));
        }
        if parts > PARTS_MAX {
            return Err(format!("{PARTS_MAX} core modules and components in it"));
        }
        if functions > FUNCTIONS_MAX {
            return Err(format!("{FUNCTIONS_MAX} functions"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::BUNDLED;

    const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";

    fn leb(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 127 {
            bytes.push((number & 127) as u8 | 128);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    fn nested(depth: usize) -> Vec<u8> {
        (0..depth)
            .fold(HEAD.to_vec(), |within, _| [HEAD, &[4], &leb(within.len()), &within].concat())
    }

    fn beside_each_other(count: usize) -> Vec<u8> {
        let one = [&[4], &leb(HEAD.len())[..], HEAD].concat();
        [HEAD, &one.repeat(count)].concat()
    }

    #[test]
    fn what_tool_chains_make_is_within_and_towers_are_not() {
        for (name, component) in BUNDLED {
            assert_eq!(check(component), Ok(()), "{name}");
        }
        assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
        assert!(check(&nested(DEPTH_MAX + 1)).unwrap_err().contains("levels"));
        assert!(check(&nested(5_000)).unwrap_err().contains("levels"));
        assert_eq!(check(&beside_each_other(PARTS_MAX)), Ok(()));
        assert!(check(&beside_each_other(PARTS_MAX + 1)).unwrap_err().contains("components in it"));
        // The declared count of functions is trusted: a false one is rejected either way.
        let count = leb(FUNCTIONS_MAX as usize + 1);
        let claims = [b"\0asm\x01\0\0\0", &[3, count.len() as u8 + 2][..], &count, &[0, 0]];
        let claims = claims.concat();
        let module = [HEAD, &[1], &leb(claims.len()), &claims].concat();
        assert!(check(&module).unwrap_err().contains("functions"));
    }

    #[test]
    fn what_is_cut_short_or_no_component_is_left_to_the_compiler() {
        let whole = nested(3);
        for length in 0..whole.len() {
            assert_eq!(check(&whole[..length]), Ok(()));
        }
        assert_eq!(check(b"text"), Ok(()));
    }
}
