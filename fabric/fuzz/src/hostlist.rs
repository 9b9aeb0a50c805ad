//! Lists of hosts as Slurm writes them: what they stand for, and nothing beyond a bound.

use crate::lists::{BRACKETS_MAX, DIGITS_MAX, HOST_BYTES_MAX, hosts, numbers};

/// Most hosts of one list.
const MOST: usize = 200;

/// Any text, as a list of hosts and as one of numbers.
///
/// # Panics
/// If something is wrong.
pub fn hostlist(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut names = Vec::new();
    let sound = account(&text, &mut names);
    assert_eq!(hosts(&text, MOST).ok(), sound.then_some(names));
    if let Ok(numbers) = numbers(&text, MOST) {
        assert!((1..=MOST).contains(&numbers.len()));
        // What was written without short forms stands for itself.
        let plain = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        assert_eq!(crate::lists::numbers(&plain, MOST).as_ref(), Ok(&numbers));
    }
}

/// The hosts of `text`, word by word; `false` if it is none, or too long a list.
fn account(text: &str, names: &mut Vec<String>) -> bool {
    let mut depth = 0_i32;
    let mut words = vec![String::new()];
    for c in text.chars() {
        depth += i32::from(c == '[' && depth == 0) - i32::from(c == ']' && depth == 1);
        match c {
            ',' if depth == 0 => words.push(String::new()),
            _ => words.last_mut().expect("there is a word").push(c),
        }
    }
    words.iter().all(|word| word.matches('[').count() <= BRACKETS_MAX && write_out(word, names))
}

/// Puts the numbers of the first bracket in its place, one after the other, and goes on with what results.
fn write_out(word: &str, names: &mut Vec<String>) -> bool {
    let Some(open) = word.find('[') else {
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        names.push(word.to_owned());
        return (1..=HOST_BYTES_MAX).contains(&word.len())
            && word.chars().all(sound)
            && names.len() <= MOST;
    };
    let Some(close) = word.find(']').filter(|close| *close > open) else { return false };
    for range in word[open + 1..close].split(',') {
        let ends: Vec<&str> = range.splitn(2, '-').collect();
        let number = |text: &str| {
            let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            (digits && text.len() <= DIGITS_MAX).then(|| text.parse::<u64>().expect("it is short"))
        };
        let (first, last) = (number(ends[0]), number(ends[ends.len() - 1]));
        let (Some(first), Some(last)) = (first, last) else { return false };
        if first > last {
            return false;
        }
        for at in first..=last {
            let width = ends[0].len();
            let one = format!("{}{at:0width$}{}", &word[..open], &word[close + 1..]);
            if !write_out(&one, names) {
                return false;
            }
        }
    }
    true
}
