use super::*;

fn large(error: &RegexError) -> bool {
    matches!(error, RegexError::Large { .. })
}

#[test]
fn the_same_expression_is_compiled_once_and_paid_once() {
    let (mut one, mut other) = (Budget::of_resource(), Budget::of_resource());
    let first = one.whole("/once/[a-z]+").unwrap();
    let used = one.used();
    assert!(used > 0);
    let again = one.whole("/once/[a-z]+").unwrap();
    let elsewhere = other.whole("/once/[a-z]+").unwrap();
    assert!(Arc::ptr_eq(&first.0, &again.0) && Arc::ptr_eq(&first.0, &elsewhere.0));
    assert_eq!((one.used(), other.used()), (used, used));
    // It is for another use, so it is another one.
    let somewhere = one.anywhere("/once/[a-z]+").unwrap();
    assert!(somewhere != first && one.used() > used);
    let key = (Use::Whole, Box::from("/once/[a-z]+"));
    let is_known = || known().as_ref().unwrap().contains_key(&key);
    drop((first, again, one, elsewhere));
    assert!(is_known(), "the other budget has it");
    drop(other);
    assert!(!is_known());
}

#[test]
fn a_budget_takes_what_fits_and_refuses_the_rest() {
    let mut budget = Budget::new(64 << 10, "left of the test's");
    let mut taken = Vec::new();
    let refused = loop {
        match budget.whole(&format!("/{}/[0-9]+/.*", taken.len())) {
            Ok(regex) => taken.push(regex),
            Err(refused) => break refused,
        }
    };
    assert!(taken.len() > 3, "{}", taken.len());
    assert!(budget.used() <= 64 << 10);
    assert!(
        large(&refused) && refused.to_string().contains("left of the test's"),
        "{refused}"
    );
    let sizes: usize = taken.iter().map(|regex| regex.0.size).sum();
    assert_eq!(sizes, budget.used());
    assert_eq!(budget.whole("tiny"), Err(RegexError::Spent));
    assert_eq!(budget.whole("/0/[0-9]+/.*").as_ref(), Ok(&taken[0]));
    // Another one has its own.
    assert!(Budget::of_resource().whole("/a/[0-9]+/.*").is_ok());
}

#[test]
fn one_that_is_too_large_is_enough_whatever_is_left() {
    for usage in [Use::Whole, Use::Anywhere, Use::Replace] {
        let mut budget = Budget::new(OF_PROCESS, "left of the test's");
        let first = budget.compile(usage, r"\w{1000}").unwrap_err();
        assert!(large(&first), "{first}");
        for number in 0..500 {
            let next = budget.compile(usage, &format!(r"\w{{1000}}{number}"));
            assert_eq!(next, Err(RegexError::Spent), "{usage:?} {number}");
        }
    }
}

#[test]
fn what_multiplies_is_refused_by_its_size() {
    for pattern in [
        "(a{1000}){1000}",
        r"\w{1000}",
        r"(?i)\pL{500}",
        r"(((x{50}){50}){50}){50}",
        r"[^\x00]{2000}",
        "(?:.{1,1000}){1,50}",
    ] {
        let refused = Budget::of_resource().whole(pattern).unwrap_err();
        assert!(large(&refused), "{pattern}: {refused}");
        let refused = Budget::of_resource().replace(pattern).unwrap_err();
        assert!(large(&refused), "{pattern}: {refused}");
    }
    let long = "a".repeat(LONGEST + 1);
    let refused = Budget::of_resource().anywhere(&long).unwrap_err();
    assert_eq!(refused, RegexError::Long(LONGEST + 1));
    let groups = "(a)".repeat(MOST_GROUPS + 1);
    assert!(Budget::of_resource().whole(&groups).is_ok());
    let refused = Budget::of_resource().replace(&groups).unwrap_err();
    assert_eq!(refused, RegexError::Groups(MOST_GROUPS + 1));
}

#[test]
fn anchors_hold_whatever_the_pattern_is() {
    for pattern in ["a)|(b", "a)|(?:b", "(", "a\\"] {
        let refused = Budget::of_resource().whole(pattern).unwrap_err();
        assert!(matches!(refused, RegexError::Syntax(_)), "{pattern}");
        assert_eq!(refused.to_string().lines().count(), 1, "{refused}");
    }
    let whole = Budget::of_resource().whole("a|b").unwrap();
    assert!(whole.is_match("a") && whole.is_match("b") && !whole.is_match("ab"));
    let somewhere = Budget::of_resource().anywhere("a|b").unwrap();
    assert!(somewhere.is_match("xbx") && !somewhere.is_match("x"));
}

#[test]
fn every_match_is_replaced_with_its_groups() {
    for (pattern, text, expected) in [
        ("a(.)", "xaby", "x<b>y"),
        ("x*", "axb", "<>a<>b<>"),
        ("(é)|e", "eé", "<><é>"),
        ("z", "abc", "abc"),
        ("", "", "<>"),
    ] {
        let regex = Budget::of_resource().replace(pattern).unwrap();
        let new = regex.replace_all(text, |new, group| {
            new.push('<');
            new.push_str(&group(1).unwrap_or_default());
            new.push('>');
        });
        assert_eq!(new, expected, "{pattern}");
    }
}

#[test]
fn a_thread_keeps_so_much_for_all_expressions() {
    let mut budget = Budget::new(OF_PROCESS, "left of the test's");
    let text = "abcdefghij0123456789".repeat(50);
    let mut most = 0;
    for number in 0..1500 {
        let pattern = format!("(?:[a-j]*[0-9]+){{1,9}}x{number}");
        let regex = budget.whole(&pattern).unwrap();
        assert!(!regex.is_match(&text));
        most = most.max(scratch::size());
    }
    assert!(most <= OF_THREAD, "{most}");
    assert!(most > OF_THREAD / 2, "too few expressions to tell: {most}");
}
