//! The page that is rendered: sections of lines whose columns are aligned, and how two pages differ.

/// Bytes of a line of hex.
const LINE_BYTES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    pub(crate) fn section(&mut self, title: &str) {
        self.text(&format!("\n== {title}"));
    }

    pub(crate) fn text(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A name, and what is said of it.
    pub(crate) fn line(&mut self, name: &str, what: impl std::fmt::Display) {
        self.text(format!("{name:34} {what}").trim_end());
    }

    /// Bytes, with what they are.
    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.line(name, format!("{} bytes", bytes.len()));
        for (at, line) in bytes.chunks(LINE_BYTES).enumerate() {
            self.text(&format!("    {:4}  {}", at * LINE_BYTES, spaced(line)));
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In groups of four bytes.
fn spaced(bytes: &[u8]) -> String {
    bytes.chunks(4).map(hex).collect::<Vec<_>>().join(" ")
}

/// The lines that only one of the two has, each behind its mark and number.
pub(crate) fn difference(file: &str, code: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (file.lines().collect(), code.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - same;
    let ends = old.iter().rev().zip(new.iter().rev());
    let alike = ends.take(rest).take_while(|(old, new)| old == new).count();
    let mut out = String::new();
    for (mark, lines) in [('-', &old), ('+', &new)] {
        for (at, line) in lines.iter().enumerate().take(lines.len() - alike).skip(same) {
            out.push_str(&format!("{mark}{:4} {line}\n", at + 1));
        }
    }
    out
}

#[test]
fn two_pages_differ_in_the_lines_that_changed() {
    assert_eq!(difference("a\nb\nc\n", "a\nb\nc\n"), "");
    assert_eq!(difference("a\nb\nc\n", "a\nx\ny\nc\n"), "-   2 b\n+   2 x\n+   3 y\n");
    assert_eq!(difference("", "a\n"), "+   1 a\n");
}
