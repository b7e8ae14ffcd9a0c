//! What models write, and what is run of it.
use super::*;
use proptest::prelude::*;

#[track_caller]
fn runs(arguments: &str, expected: &str) {
    assert_eq!(code(arguments).as_deref(), Ok(expected), "{arguments}");
}

#[track_caller]
fn refused(arguments: &str, word: &str) {
    let words = code(arguments).unwrap_err();
    assert!(words.contains(word) && words.contains("{\"code\""), "{arguments}: {words}");
}

#[test]
fn json_with_the_code_in_it() {
    runs(r#"{"code": "print(1)\nx = \"a\""}"#, "print(1)\nx = \"a\"");
    runs(r#" {"code":"1+1","timeout":5} "#, "1+1");
    runs(r#"{"code": ["import math", "math.pi\n"]}"#, "import math\nmath.pi");
    runs(r#"{"code": "   x"}"#, "   x");
}

#[test]
fn the_code_under_another_name() {
    runs(r#"{"source": "1+1", "language": "python"}"#, "1+1");
    runs(r#"{"__arg1": "1+1"}"#, "1+1");
    runs(r#"{"name": "python", "arguments": {"code": "1+1"}}"#, "1+1");
    runs(r#"{"arguments": "{\"code\": \"1+1\"}"}"#, "1+1");
}

#[test]
fn json_in_a_json_string_and_a_bare_string() {
    runs(r#""{\"code\": \"print(1)\"}""#, "print(1)");
    runs(r#""print(1)\nprint(2)""#, "print(1)\nprint(2)");
}

#[test]
fn raw_line_breaks_and_tabs() {
    runs("{\"code\": \"for x in y:\n\tprint(x)\"}", "for x in y:\n\tprint(x)");
    runs("{\"code\": \"x = 1 + \\\n    2\"}", "x = 1 + \\\n    2");
}

#[test]
fn quotes_as_python_has_them() {
    runs("{\"code\": \"\"\"\nprint(\"a\\n\")\n\"\"\"}", "print(\"a\\n\")");
    runs("{'code': '''x = 1\ny = \"2\"'''}", "x = 1\ny = \"2\"");
    runs("{\"code\": r\"\"\"print(1)\nprint(2)\"\"\"}", "print(1)\nprint(2)");
    runs(r#"{"code": """print(1)\nprint(2)"""}"#, "print(1)\nprint(2)");
    runs(r"{'code': 'print(\'a\')'}", "print('a')");
    runs("{`code`: 1}", "{`code`: 1}");
    runs("{code: \"print(1)\"}", "print(1)");
    runs("{\"code\": print(1)}", "print(1)");
}

#[test]
fn quotes_that_are_not_escaped() {
    runs(r#"{"code": "print("hi")\nprint('\d')"}"#, "print(\"hi\")\nprint('\\d')");
    runs(r#"{"code": "print("hi")" }, "#, "print(\"hi\")");
}

#[test]
fn code_alone() {
    runs("print(17 * 23)", "print(17 * 23)");
    runs("import math\nmath.pi", "import math\nmath.pi");
    runs("17", "17");
    runs("[1, 2]", "[1, 2]");
    runs("{1, 2}", "{1, 2}");
    runs("{n: n for n in range(3)}", "{n: n for n in range(3)}");
    runs("'a'.upper()", "'a'.upper()");
    runs("\"a\".upper()", "\"a\".upper()");
}

#[test]
fn fenced_code() {
    runs("```python\nprint(1)\nprint(2)\n```", "print(1)\nprint(2)");
    runs("Here it is:\n```\nprint(1)\n```\nIt prints 1.", "print(1)");
    runs(r#"{"code": "```python\nprint(1)\n```"}"#, "print(1)");
    let inside = "text = \"\"\"\n```\nx\n```\n\"\"\"";
    runs(inside, inside);
}

#[test]
fn what_has_no_code() {
    for arguments in ["", "  ", "{}", "null", "true", r#"{"code": ""}"#, r#"{"code": 5}"#, "``` \n\n```"] {
        refused(arguments, "no code");
    }
    refused(r#"{"a": "1", "b": "2"}"#, "no code");
    refused("{'timeout': 5, 'code': 'x'}", "not valid JSON");
}

#[test]
fn code_that_breaks_off_is_not_run() {
    for arguments in ["{", "{\"co", "{\"code\"", "{\"code\":", "{\"code\": \"", "\"print(1", "{\"code\": \"\"\"x\n"] {
        refused(arguments, "broke off");
    }
    refused(r#"{"code": "import shutil\nshutil.rmtree(\"/workspace/a"#, "broke off");
    refused(r#"{"code": "print("hi")"#, "broke off");
    // Only the brace is missing.
    runs(r#"{"code": "print(1)""#, "print(1)");
}

#[test]
fn arguments_of_other_tools_are_an_object() {
    assert_eq!(object("").unwrap(), Map::new());
    assert_eq!(object(r#"{"a": 1}"#).unwrap()["a"], 1);
    assert_eq!(object(r#""{\"a\": 1}""#).unwrap()["a"], 1);
    assert_eq!(object("{\"a\": \"x\ny\"}").unwrap()["a"], "x\ny");
    for arguments in ["[1]", "\"a\"", "{\"a\":", "a=1"] {
        assert!(object(arguments).unwrap_err().contains("JSON object"), "{arguments}");
    }
}

proptest! {
    #[test]
    fn all_code_survives_json(text in any::<String>().prop_filter("blank", |it| !it.trim().is_empty() && !it.contains("```"))) {
        let json = serde_json::json!({ "code": text }).to_string();
        prop_assert_eq!(code(&json), Ok(text));
    }

    #[test]
    fn a_beginning_is_refused_or_has_all_code(text in "[a-z\"'\\\\\n{}(): ]{1,40}") {
        let json = serde_json::json!({ "code": text }).to_string();
        for at in (0..json.len()).filter(|at| json.is_char_boundary(*at)) {
            if let Ok(code) = code(&json[..at]) {
                prop_assert_eq!(&code, &text);
            }
        }
    }

    #[test]
    fn nothing_makes_it_panic(text in "(\\{|\"|'|code|:|\\\\|`|\n|\\}|\\PC){0,30}") {
        let _ = (code(&text), object(&text));
    }
}
