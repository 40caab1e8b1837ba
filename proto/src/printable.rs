//! Text that others wrote, as a terminal or a log may show it: nothing in it moves the cursor, changes the
//! order of what is read, or stands there unseen.

/// The text with every such character written as `\u{1b}`; a line break is one of them.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_plain(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
}

/// The text, line by line: for notes that have lines of their own.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Neither a control character nor one that is invisible or turns the direction of writing.
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{printable, printable_lines};

    #[test]
    fn plain_text_stays_and_what_a_terminal_would_act_on_is_spelled_out() {
        let plain = "releases/payments/*  Zoë 東京 \\ \"x\"";
        assert_eq!(printable(plain), plain);
        assert_eq!(printable("a\u{1b}[2Kb\r\n"), r"a\u{1b}[2Kb\u{d}\u{a}");
        assert_eq!(printable("\u{9b}31m"), r"\u{9b}31m");
        assert_eq!(printable("exe\u{202e}txt\u{200b}"), r"exe\u{202e}txt\u{200b}");
        assert_eq!(printable("\u{2066}\u{feff}\u{e0041}"), r"\u{2066}\u{feff}\u{e0041}");
        assert_eq!(printable_lines("one\n\ttwo\r\n"), "one\n\\u{9}two");
    }

    proptest! {
        #[test]
        fn nothing_is_left_to_act_on_and_doing_it_twice_changes_nothing(
            text in r"(\PC|\p{Cc}|\p{Cf}|[\u{202e}\u{200b}\u{1b}\n]){0,60}",
        ) {
            let shown = printable(&text);
            let acts = |c: char| c.is_control() || matches!(c,
                '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}');
            prop_assert!(!shown.chars().any(acts), "{:?}", shown);
            prop_assert_eq!(printable(&shown), shown.clone());
            prop_assert!(shown.chars().count() >= text.chars().count());
        }
    }
}
