//! A Rust file taken apart: code, comments and string literals by line.
//!
//! A rule about code must not trip over a word in a comment, nor one about comments over a string. This is a scanner of
//! a page, not a parser: it knows comments, strings, raw strings, characters and lifetimes, which is all the rules ask.
//!
//! # Not here
//! Syntax, macros, `cfg`. A rule that needs those belongs to clippy.

/// One line of a source file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The code, with comments left out and the inside of literals left out.
    pub code: String,
    /// The text of comments, their marks included.
    pub comment: String,
}

/// A string literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// Line on which it opens, from 1.
    pub line: usize,
    /// What stands between the quotes, escapes as written.
    pub text: String,
}

/// A source file taken apart.
#[derive(Debug, Default)]
pub struct Source {
    /// Every line in order.
    pub lines: Vec<Line>,
    /// Every string literal in order.
    pub literals: Vec<Literal>,
}

/// Takes `text` apart.
pub fn scan(text: &str) -> Source {
    let mut scanner = Scanner { rest: text.chars().collect(), at: 0, out: Source::default() };
    scanner.out.lines.push(Line::default());
    scanner.run();
    scanner.out
}

/// Whether `code` has `word` with no letter, digit or underscore beside it.
pub fn has_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

struct Scanner {
    rest: Vec<char>,
    at: usize,
    out: Source,
}

impl Scanner {
    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            match (c, self.peek(1)) {
                ('/', Some('/')) => self.line_comment(),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(),
                ('r', Some('"' | '#')) if !self.after_name() => self.raw_string(),
                ('\'', _) => self.quote(),
                _ => self.code(),
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn line(&mut self) -> &mut Line {
        self.out.lines.last_mut().expect("there is always a line")
    }

    /// Takes one character, as code, as comment, or as neither.
    fn take(&mut self, into: Option<fn(&mut Line) -> &mut String>) {
        let Some(c) = self.peek(0) else { return };
        self.at += 1;
        if c == '\n' {
            self.out.lines.push(Line::default());
        } else if let Some(into) = into {
            into(self.line()).push(c);
        }
    }

    fn code(&mut self) {
        self.take(Some(|line| &mut line.code));
    }

    fn comment(&mut self) {
        self.take(Some(|line| &mut line.comment));
    }

    /// Whether the character before is part of a name, so that the `r` of `for"` opens nothing. The `b` and `c` of
    /// `br"` and `cr"` count as code before a raw string.
    fn after_name(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map(|at| self.rest[at]);
        let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
        match before(1) {
            Some('b' | 'c') => before(2).is_some_and(part_of_name),
            Some(c) => part_of_name(c),
            None => false,
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.comment();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_u32;
        while let Some(c) = self.peek(0) {
            match (c, self.peek(1)) {
                ('/', Some('*')) => depth += 1,
                ('*', Some('/')) => depth -= 1,
                _ => {
                    self.comment();
                    continue;
                }
            }
            self.comment();
            self.comment();
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        let line = self.out.lines.len();
        let mut text = String::new();
        self.code();
        while let Some(c) = self.peek(0) {
            if c == '"' {
                self.code();
                break;
            }
            let width = if c == '\\' { 2 } else { 1 };
            for _ in 0..width {
                text.extend(self.peek(0));
                self.take(None);
            }
        }
        self.out.literals.push(Literal { line, text });
    }

    fn raw_string(&mut self) {
        let hashes = self.rest[self.at + 1..].iter().take_while(|c| **c == '#').count();
        if self.peek(1 + hashes) != Some('"') {
            return self.code(); // A raw identifier.
        }
        let line = self.out.lines.len();
        let mut text = String::new();
        for _ in 0..hashes + 2 {
            self.code();
        }
        let closes =
            |s: &Self| s.peek(0) == Some('"') && (1..=hashes).all(|i| s.peek(i) == Some('#'));
        while self.peek(0).is_some() && !closes(self) {
            text.extend(self.peek(0));
            self.take(None);
        }
        for _ in 0..=hashes {
            self.code();
        }
        self.out.literals.push(Literal { line, text });
    }

    /// A character literal, or the quote of a lifetime.
    fn quote(&mut self) {
        let escaped = self.peek(1) == Some('\\');
        let literal = escaped || self.peek(2) == Some('\'');
        self.code();
        if !literal {
            return;
        }
        if escaped {
            self.take(None);
        }
        self.take(None);
        while self.peek(0).is_some_and(|c| c != '\'' && c != '\n') {
            self.take(None);
        }
        self.code();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        scan(text).lines.iter().map(|line| line.code.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        assert_eq!(code("a // b\nc /* d /* e */ f */ g"), "a \nc  g");
        assert_eq!(
            code(r##"x("unsafe \" {", r#"unsafe "{"#, br"q")"##),
            r####"x("", r#""#, br"")"####
        );
        assert_eq!(scan("let a = 1; // SAFETY: b").lines[0].comment, "// SAFETY: b");
    }

    #[test]
    fn quotes_of_characters_and_lifetimes_are_told_apart() {
        assert_eq!(
            code(r"f('a', '\'', '\u{1F}', &'a str, '\\', '/')"),
            "f('', '', '', &'a str, '', '')"
        );
        assert_eq!(code(r#"m('"', "x")"#), r#"m('', "")"#);
    }

    #[test]
    fn literals_keep_their_text_and_the_line_they_open_on() {
        let source = scan("a(\n\"A1: one\\\n two\",\n\"b\")");
        assert_eq!(source.literals[0], Literal { line: 2, text: "A1: one\\\n two".to_owned() });
        assert_eq!(source.literals[1].line, 4);
        assert_eq!(source.lines.len(), 4);
    }

    #[test]
    fn raw_names_and_names_that_end_in_r_open_no_string() {
        assert_eq!(code("r#type + for\"x\""), "r#type + for\"\"");
    }

    #[test]
    fn a_word_is_bounded_on_both_sides() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("expect(unsafe_code)", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
    }
}
