//! Slurm's short forms of lists: hosts as `n[1-3,07],login`, numbers as `4(x2),1`.
//!
//! A host is text with any number of brackets in it. A bracket stands for each of its numbers and ranges; a
//! number is written as wide as the first of its range. Of several brackets the last one counts fastest.
//!
//! In: text from the environment   Out: names, or why there are none
//!
//! # Invariants
//! - **HL1** No text makes a list longer than the caller allows, nor costs more than a list of that length.
//! - **HL2** A text that Slurm would not write is refused, never guessed at.
//!
//! # Not here
//! What the hosts are for. Other files: the fuzzer takes this one alone.

/// Longest text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Longest name of a host, in bytes.
pub const HOST_BYTES_MAX: usize = 253;
/// Brackets that one host may have.
pub const BRACKETS_MAX: usize = 8;
/// Digits that a number may have.
pub const DIGITS_MAX: usize = 18;

/// Why a text is no list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The text is too long to be read.
    #[error("it has more than {TEXT_BYTES_MAX} bytes")]
    Long,
    /// It stands for more than the caller allows.
    #[error("it stands for more than {0}")]
    Many(usize),
    /// A part of it is not of that form.
    #[error("`{}` {what}", .part.escape_debug())]
    Malformed {
        /// Which part, cut if it is long.
        part: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The hosts for which `text` stands, in its order, at most `most`.
///
/// # Errors
/// [`ListError`], if it is empty, malformed, too long or stands for more.
pub fn hosts(text: &str, most: usize) -> Result<Vec<String>, ListError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ListError::Long);
    }
    let mut hosts = Vec::new();
    for word in words(text) {
        let parts = parts(word)?;
        let count = parts.iter().try_fold(1_u64, |count, part| count.checked_mul(part.count()?));
        let room = most.saturating_sub(hosts.len());
        // HL1: counted before anything is written out.
        if count.and_then(|count| usize::try_from(count).ok()).is_none_or(|count| count > room) {
            return Err(ListError::Many(most));
        }
        let names = parts.iter().fold(vec![String::new()], |names, part| part.after(&names));
        if names.iter().any(|name| name.is_empty() || name.len() > HOST_BYTES_MAX) {
            return Err(malformed(word, "is no name of a host"));
        }
        hosts.extend(names);
    }
    Ok(hosts)
}

/// The numbers for which `text` stands, such as 4, 4 and 1 for `4(x2),1`; at most `most`.
///
/// # Errors
/// [`ListError`], if it is empty, malformed, too long or stands for more.
pub fn numbers(text: &str, most: usize) -> Result<Vec<u32>, ListError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ListError::Long);
    }
    let mut numbers = Vec::new();
    for word in text.split(',') {
        let (number, times) = match word.split_once('(') {
            None => (word, "1"),
            Some((number, rest)) => {
                let times = rest.strip_prefix('x').and_then(|rest| rest.strip_suffix(')'));
                (number, times.ok_or_else(|| malformed(word, "is not written 4(x2)"))?)
            }
        };
        let wrong = || malformed(word, "is no number");
        let number = digits(number).and_then(|number| u32::try_from(number).ok());
        let number = number.ok_or_else(wrong)?;
        let times = digits(times).filter(|times| *times > 0).ok_or_else(wrong)?;
        let times = usize::try_from(times).unwrap_or(usize::MAX);
        if times > most.saturating_sub(numbers.len()) {
            return Err(ListError::Many(most));
        }
        numbers.extend(std::iter::repeat_n(number, times));
    }
    Ok(numbers)
}

/// What a host is made of.
enum Part<'a> {
    Text(&'a str),
    Bracket(Vec<Range>),
}

/// Numbers in a row, each written with at least so many digits.
struct Range {
    first: u64,
    last: u64,
    width: usize,
}

impl Part<'_> {
    /// How many texts it stands for; `None` if nobody can count them.
    fn count(&self) -> Option<u64> {
        match self {
            Self::Text(_) => Some(1),
            Self::Bracket(ranges) => ranges.iter().try_fold(0_u64, |count, range| {
                count.checked_add(range.last - range.first)?.checked_add(1)
            }),
        }
    }

    /// Each of `names` with each of its own texts behind it.
    fn after(&self, names: &[String]) -> Vec<String> {
        let written = |range: &Range| {
            let width = range.width;
            (range.first..=range.last).map(move |number| format!("{number:0width$}"))
        };
        let texts: Vec<String> = match self {
            Self::Text(text) => vec![(*text).to_owned()],
            Self::Bracket(ranges) => ranges.iter().flat_map(written).collect(),
        };
        names
            .iter()
            .flat_map(|name| texts.iter().map(move |text| format!("{name}{text}")))
            .collect()
    }
}

/// The pieces between commas that stand in no bracket.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c| {
        inside = c == '[' || (inside && c != ']');
        c == ',' && !inside
    })
}

fn parts(word: &str) -> Result<Vec<Part<'_>>, ListError> {
    let mut parts = Vec::new();
    let mut rest = word;
    while let Some((before, behind)) = rest.split_once('[') {
        let (inside, after) =
            behind.split_once(']').ok_or_else(|| malformed(word, "has a bracket left open"))?;
        if parts.len() >= 2 * BRACKETS_MAX {
            return Err(malformed(word, "has too many brackets"));
        }
        parts.push(Part::Text(plain(before)?));
        parts.push(Part::Bracket(inside.split(',').map(range).collect::<Result<_, _>>()?));
        rest = after;
    }
    parts.push(Part::Text(plain(rest)?));
    Ok(parts)
}

/// Text of a host's name outside brackets; it may be empty.
fn plain(text: &str) -> Result<&str, ListError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.chars().all(sound) {
        return Ok(text);
    }
    Err(malformed(text, "has characters that no host has"))
}

fn range(text: &str) -> Result<Range, ListError> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let both = digits(low).zip(digits(high));
    match both.filter(|(first, last)| first <= last) {
        Some((first, last)) => Ok(Range { first, last, width: low.len() }),
        None => Err(malformed(text, "is no range of numbers")),
    }
}

fn digits(text: &str) -> Option<u64> {
    let sound =
        (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    sound.then(|| text.parse().ok()).flatten()
}

fn malformed(part: &str, what: &'static str) -> ListError {
    ListError::Malformed { part: part.chars().take(64).collect(), what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> String {
        hosts(text, 1000).map_or_else(|error| format!("! {error}"), |hosts| hosts.join(" "))
    }

    /// Each as `scontrol show hostnames` of Slurm 22.05 has it, but for text behind the last bracket, which
    /// that version refuses.
    #[test]
    fn each_form_of_a_list_stands_for_the_hosts_that_slurm_says() {
        for (text, wanted) in [
            ("n1", "n1"),
            ("n[1-2]", "n1 n2"),
            ("n[1,3-4],login", "n1 n3 n4 login"),
            ("a,b[1,3],c[2-3]", "a b1 b3 c2 c3"),
            ("n[09-11]", "n09 n10 n11"),
            ("n[9-11]", "n9 n10 n11"),
            ("n[00-02]", "n00 n01 n02"),
            ("n[001-2]", "n001 n002"),
            ("n[1-02]", "n1 n2"),
            ("n[1-1]", "n1"),
            ("[1-3]", "1 2 3"),
            ("n[1-2]-[3-4]", "n1-3 n1-4 n2-3 n2-4"),
            ("x[1-2][3-4]", "x13 x14 x23 x24"),
            ("10.0.0.[1-2]", "10.0.0.1 10.0.0.2"),
            ("dup,dup", "dup dup"),
            ("a[01,3]b.example,c_d", "a01b.example a3b.example c_d"),
            ("a-[1-2].b-[03]x", "a-1.b-03x a-2.b-03x"),
        ] {
            assert_eq!(expanded(text), wanted, "{text}");
        }
    }

    #[test]
    fn hl2_what_slurm_would_not_write_is_refused() {
        let wrong = [
            "",
            ",",
            "a,",
            ",a",
            "a,,b",
            "n[1-2",
            "n]",
            "n[]",
            "n[1,]",
            "n[3-1]",
            "n[a-c]",
            "n[1-2-3]",
            "n[ 1-2]",
            "n[0x1-3]",
            "a b",
            "n[[1-2]]",
            "n[1[2]]",
            "n[-1]",
            "n[1-]",
            "é",
            "a/b",
            "n[1]]",
            "a\0",
            "n[1234567890123456789]",
            "tcp://a:1",
        ];
        for text in wrong {
            assert!(hosts(text, 1000).is_err(), "{text}");
        }
        let brackets = |count: usize| hosts(&"[1]".repeat(count), 1000).is_ok();
        assert!(brackets(BRACKETS_MAX) && !brackets(BRACKETS_MAX + 1));
        let long = |bytes: usize| hosts(&"n".repeat(bytes), 1000).is_ok();
        assert!(long(HOST_BYTES_MAX) && !long(HOST_BYTES_MAX + 1));
        assert_eq!(hosts(&"n,".repeat(TEXT_BYTES_MAX), 1000), Err(ListError::Long));
    }

    #[test]
    fn hl1_a_short_text_for_many_hosts_is_refused_before_it_is_written_out() {
        assert_eq!(hosts("n[1-1000]", 1000).map(|hosts| hosts.len()), Ok(1000));
        for text in [
            "n[1-1001]",
            "n[1-999],a,b",
            "[0-9][0-9][0-9][0-9]",
            "n[0-999999999999999999]",
            "[0-999999999999999999][0-999999999999999999]",
            "n[0-999999999999999999,0-999999999999999999,1-999999999999999999]",
        ] {
            assert_eq!(hosts(text, 1000), Err(ListError::Many(1000)), "{text}");
        }
        assert_eq!(hosts("a", 0), Err(ListError::Many(0)));
    }

    #[test]
    fn counts_are_repeated_as_often_as_they_say() {
        assert_eq!(numbers("4", 9), Ok(vec![4]));
        assert_eq!(numbers("2(x3),1", 9), Ok(vec![2, 2, 2, 1]));
        assert_eq!(numbers("0(x2),10(x1)", 9), Ok(vec![0, 0, 10]));
        for text in [
            "",
            ",",
            "1,",
            "a",
            "-1",
            "1(x)",
            "1(2)",
            "1(x2",
            "(x2)",
            "1(x2)3",
            "1(x0)",
            "5000000000",
        ] {
            assert!(numbers(text, 9).is_err(), "{text}");
        }
        assert_eq!(numbers("1(x9),1", 9), Err(ListError::Many(9)));
        assert_eq!(numbers("1(x999999999999999999)", 9), Err(ListError::Many(9)));
    }

    #[test]
    fn a_refusal_names_the_part_that_is_wrong() {
        assert_eq!(expanded("a,n[3-1]"), "! `3-1` is no range of numbers");
        assert_eq!(expanded("n[1"), "! `n[1` has a bracket left open");
        assert_eq!(expanded("a\u{1b}b"), "! `a\\u{1b}b` has characters that no host has");
    }

    proptest! {
        /// Names that are put together by hand, and the text that stands for them.
        #[test]
        fn hosts_that_were_written_in_short_come_back(
            words in prop::collection::vec(
                ("[a-z]{1,5}", prop::collection::vec((0_u64..200, 0_u64..20, 0_usize..5), 0..4), "[a-z.]{0,3}"),
                1..6,
            )
        ) {
            let (mut texts, mut wanted) = (Vec::new(), Vec::new());
            for (prefix, ranges, suffix) in words {
                if ranges.is_empty() {
                    texts.push(format!("{prefix}{suffix}"));
                    wanted.push(format!("{prefix}{suffix}"));
                    continue;
                }
                let mut inside = Vec::new();
                for (first, more, width) in ranges {
                    let low = format!("{first:0width$}");
                    let width = low.len();
                    inside.push(if more == 0 { low } else { format!("{low}-{}", first + more) });
                    wanted.extend((first..=first + more).map(|n| format!("{prefix}{n:0width$}{suffix}")));
                }
                texts.push(format!("{prefix}[{}]{suffix}", inside.join(",")));
            }
            prop_assert_eq!(hosts(&texts.join(","), wanted.len()), Ok(wanted.clone()));
            prop_assert_eq!(hosts(&texts.join(","), wanted.len() - 1), Err(ListError::Many(wanted.len() - 1)));
        }

        #[test]
        fn hl1_any_text_ends_within_its_bound(text in "[a-c0-9,\\[\\]\\-(x)]{0,60}", most in 0_usize..50) {
            if let Ok(hosts) = hosts(&text, most) {
                prop_assert!((1..=most).contains(&hosts.len()));
                prop_assert!(hosts.iter().all(|host| hosts_of_one(host)));
            }
            if let Ok(numbers) = numbers(&text, most) {
                prop_assert!(numbers.len() <= most);
            }
        }
    }

    /// A name stands for itself.
    fn hosts_of_one(host: &str) -> bool {
        hosts(host, 1) == Ok(vec![host.to_owned()])
    }
}
