use super::*;
use crate::regexes::{Budget, Regex};
use proptest::{collection::vec, prelude::*, sample::select};

/// What a template means, as an expression.
fn expression(template: &str) -> Option<Regex> {
    let mut pattern = String::new();
    let mut ended = false;
    for segment in template.strip_prefix('/')?.split('/') {
        pattern.push('/');
        match segment {
            "{*}" | "{**}" if ended => return None,
            "{*}" => pattern.push_str("[^/]+"),
            "{**}" => {
                pattern.push_str("(?s:.*)");
                ended = true;
            }
            literal if literal.contains(['{', '}', '*']) => return None,
            literal => pattern.push_str(&literal.replace('.', r"\.")),
        }
    }
    Some(Budget::of_resource().whole(&pattern).unwrap())
}

fn joined(segments: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(segments), 0..6).prop_map(|segments| segments.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn a_template_means_what_its_expression_does(
        template in joined(&["", "a", "b.c", "{*}", "{**}", "{x}"]),
        paths in vec(joined(&["", "a", "b.c", "bxc", "a\nb", "é"]), 1..8),
    ) {
        match (Template::new(&template), expression(&template)) {
            (Ok(made), Some(expression)) => {
                for path in paths {
                    let expected = expression.is_match(&path);
                    prop_assert_eq!(made.matches(&path), expected, "{} {:?}", template, path);
                }
            }
            (made, expression) => prop_assert_eq!(made.is_ok(), expression.is_some()),
        }
    }
}
