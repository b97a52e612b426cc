//! What is told of a broken file, through a small schema.

use super::*;
use proptest::prelude::*;

/// Reads a little schema; the findings without the file's name.
fn said(text: impl AsRef<[u8]>) -> Vec<String> {
    let (_, problems) = walk(Path::new("f"), text.as_ref(), |root| {
        let _ = root.get("name").map(|item| item.text("text such as \"x\""));
        root.section("box", |table| {
            let _ = table.require("size", "size = 3").map(|item| item.number(1..=9, "small"));
            let _ = table.get("on").map(|item| item.boolean());
            let _ = table.get("mode").map(|item| item.choice(&[("enforce", 1), ("off", 2)]));
            let _ = table.get("rate").map(|item| item.timed("a rate", str::parse::<crate::rules::Quota>));
            let list = table.get("list").and_then(|item| item.list_or_one("a list"));
            let _ = list.map(|all| all.iter().filter_map(|item| item.text("text")).count());
        })
    });
    problems.iter().map(|p| p.to_string().trim_start_matches("f:").to_owned()).collect()
}

#[test]
fn every_problem_is_told_with_its_place() {
    let text = "\u{feff}nam = 1\n\
                name = 2\n\
                [box]\n\
                on = \"yes\"\n\
                mode = \"enforced\"\n\
                rate = \"100/fortnight\"\n\
                list = [\"a\", 3]\n\
                xyz = 1\n";
    assert_eq!(
        said(text),
        [
            "1:1: unknown key \"nam\" at the top of the file, did you mean name? known here: name, box",
            "2:8: name must be text such as \"x\"; this is 2",
            "3:1: [box] has no size; add a line such as size = 3",
            "4:6: box.on must be true or false, without quotes; this is \"yes\"",
            "5:8: box.mode must be \"enforce\" or \"off\"; this is \"enforced\"",
            "6:13: box.rate \"100/fortnight\": expected a unit of time: s, min, h or d, as in \"100/min\" or \"14d\"",
            "7:14: box.list must be text; this is 3",
            "8:1: unknown key \"xyz\" in [box]; known here: size, on, mode, rate, list",
        ]
    );
}

#[test]
fn columns_are_characters() {
    assert_eq!(said("name = \"ééé\"; x"), ["1:13: nothing but a # comment may follow the value on its line"]);
    assert_eq!(
        said("box = { list = \"é\", size = 10 }"),
        ["1:28: box.size must be a whole number from 1 to 9 (small); this is 10"]
    );
}

#[test]
fn escapes_fall_back_to_the_value() {
    assert_eq!(
        said("[box]\nsize = 1\nrate = \"\\u0031x\""),
        ["3:8: box.rate \"1x\": expected \"/\" and a unit after the number, as in \"100/min\""]
    );
}

#[test]
fn a_broken_line_is_told_once_and_nothing_follows_from_it() {
    assert_eq!(said("[box]\nsize = 100/min\non = true\n"), ["2:8: text must stand in quotes: write \"100/min\""]);
    assert_eq!(
        said("[box\nsize = 1\non = 3\n[bax]\n"),
        [
            "1:5: the section header is not closed; write a \"]\" at its end",
            "4:2: unknown key \"bax\" at the top of the file, did you mean box? known here: name, box",
        ]
    );
    assert_eq!(
        said("[box]\nmode = off\non = yes\nlist = \"a\n"),
        [
            "2:8: off is no value; write false for a switch, \"off\" for a text",
            "3:6: yes is no value; write true for a switch, \"yes\" for a text",
            "4:10: the text is not closed; write a \" at its end",
        ]
    );
    assert_eq!(
        said("[box]\nsize\non = yes\nsize = 1\nsize = 2\n"),
        [
            "2:5: a key without a value; write key = value",
            "3:6: yes is no value; write true for a switch, \"yes\" for a text",
            "5:1: \"size\" stands here a second time; keep one of them",
        ]
    );
    assert_eq!(
        said("xyz = 1\n[box]\nlist = [\"a\",\n\nsize = 3\non = 4\n"),
        [
            "1:1: unknown key \"xyz\" at the top of the file; known here: name, box",
            "5:6: a comma is missing here, or the list or table before is not closed",
        ]
    );
    assert_eq!(said("name = \"a\"\nname = \"b\"\n"), ["2:1: \"name\" stands here a second time; keep one of them"]);
}

#[test]
fn bytes_that_are_no_text_are_told() {
    assert_eq!(said(b"# \xc3\xa9\nname = \"\xe9\"\n"), ["2:9: the byte 0xe9 is not UTF-8; save the file as UTF-8"]);
}

#[test]
fn control_characters_stay_out_of_messages() {
    let found = said(format!("[box]\nsize = 1\nmode = \"a\\n{}\"\n", "b".repeat(99)));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("\"a\\u{a}bbb") && found[0].ends_with("b…\"") && !found[0].contains('\n'));
}

proptest! {
    #[test]
    fn no_file_panics(bytes: Vec<u8>, text in "([a-z]{1,4}|[\\[\\]{}=\"',.\\n é0-9#\\\\-])*") {
        said(bytes);
        for line in said(text) {
            prop_assert!(!line.contains('\n'));
        }
    }
}
