use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn labels_are_selected() {
    let labels = json!({"app": "web", "tier": "", "example.com/n": "5"});
    for (selector, want) in [
        ("", true),
        ("app", true),
        ("!app", false),
        ("none", false),
        ("!none", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web , tier", true),
        ("app=db", false),
        ("app!=db", true),
        ("none!=db", true),
        ("tier=", true),
        ("tier=,app=web", true),
        ("app in (web)", true),
        ("app in (db, web)", true),
        ("app in (db)", false),
        ("none in (db)", false),
        ("app notin (db)", true),
        ("none notin (db)", true),
        ("app notin (web,db)", false),
        ("tier in (,x)", true),
        ("tier in (x,)", true),
        ("example.com/n>4", true),
        ("example.com/n>5", false),
        ("example.com/n<6", true),
        ("app<6", false),
        ("in=x", false),
        ("in", false),
        ("app=in", false),
    ] {
        let parsed = LabelSelector::parse(selector);
        assert_eq!(parsed.map(|parsed| parsed.matches(Some(&labels))), Ok(want), "{selector}");
    }
    assert_eq!(LabelSelector::parse("!a").map(|s| s.matches(None)), Ok(true));
    assert_eq!(LabelSelector::parse("").map(|s| s.is_empty()), Ok(true));
    assert_eq!(LabelSelector::parse("a").map(|s| s.is_empty()), Ok(false));
}

#[test]
fn bad_label_selectors_say_why() {
    for (selector, want) in [
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a==(", "unable to parse requirement: found '(', expected: identifier"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        (
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(selector), Err(want.to_owned()), "{selector}");
    }
    for selector in ["a=-", "-a", "a/b/c", "a in (é)", "!a=b"] {
        assert!(LabelSelector::parse(selector).is_err(), "{selector}");
    }
}

#[test]
fn fields_are_selected() {
    let field = |name: &str| match name {
        "metadata.name" => "p1".to_owned(),
        "odd" => "a,b=c\\d".to_owned(),
        _ => String::new(),
    };
    for (selector, want) in [
        ("", true),
        ("metadata.name=p1", true),
        ("metadata.name==p1", true),
        ("metadata.name!=p1", false),
        ("metadata.name=p2", false),
        ("metadata.name=p1,status.phase!=Failed", true),
        ("metadata.name=p1,,", true),
        ("status.phase=", true),
        (r"odd=a\,b\=c\\d", true),
    ] {
        assert_eq!(FieldSelector::parse(selector).map(|s| s.matches(field)), Ok(want), "{selector}");
    }
    let parsed = FieldSelector::parse("a=1,b!=2").unwrap();
    assert_eq!(parsed.fields().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((parsed.exact("a"), parsed.exact("b")), (Some("1"), None));
}

#[test]
fn bad_field_selectors_say_why() {
    for (selector, want) in [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("a!b", "invalid selector: 'a!b'; can't understand 'a!b'"),
        ("a=b=c", "invalid field selector: unescaped character in value: ="),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        (r"a=\", r"invalid field selector: invalid escape sequence: \"),
    ] {
        assert_eq!(FieldSelector::parse(selector), Err(want.to_owned()), "{selector}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}|[a-c!=<>(), in]{0,40}") {
        let labels = json!({"a": "b"});
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert!(!selector.is_empty() || selector.matches(Some(&labels)));
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            prop_assert!(!selector.is_empty() || selector.matches(str::to_owned));
        }
    }

    #[test]
    fn a_selector_and_its_negation_never_agree(key in "[a-z]{1,3}", value in "[a-z0-9]{0,3}", label in "[a-z0-9]{0,3}") {
        let labels = json!({ &key: label });
        for (yes, no) in [
            (format!("{key}={value}"), format!("{key}!={value}")),
            (format!("{key} in ({value},x)"), format!("{key} notin ({value},x)")),
            (key.clone(), format!("!{key}")),
        ] {
            let matches = |text: &str, labels| LabelSelector::parse(text).map(|s| s.matches(labels));
            for labels in [Some(&labels), None] {
                prop_assert_eq!(matches(&yes, labels), matches(&no, labels).map(|found| !found));
            }
        }
    }

    #[test]
    fn escaped_field_values_come_back(value in "[a,=\\\\é]{0,12}") {
        let escaped: String =
            value.chars().flat_map(|c| (matches!(c, ',' | '=' | '\\')).then_some('\\').into_iter().chain([c])).collect();
        let selector = FieldSelector::parse(&format!("f={escaped},g!=1"));
        prop_assert_eq!(selector.as_ref().map(|s| s.exact("f")), Ok(Some(value.as_str())));
    }
}
