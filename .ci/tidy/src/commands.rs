//! Commands in `README.md`: each is one that the gate or a test runs.
//!
//! In the gate a command stands behind `run` at the start of a line, with settings of the environment before it, if any,
//! behind `env`. A word of it with a `$` stands for any one word.
//!
//! # Invariants
//! - Each line of a ```sh block of `README.md` is a command of the gate or in `ELSEWHERE`.
//! - The page has the commands of `WANTED`: they are promised to stay.
//! - Each stage that the gate defines is in one of its lists, so that none is switched off by an oversight.
//!
//! # Not here
//! Whether the commands succeed: the gate finds that out.

use crate::Finding;

/// The page whose commands are checked.
pub const PAGE: &str = "README.md";

/// The gate.
pub const GATE: &str = ".ci/run";

/// Commands of `README.md` that the gate does not run as a line of its own, and what stands in for it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("git clone https://github.com/epicserver/epicserver", "a checkout is where the gate runs"),
    ("cd epicserver", "a checkout is where the gate runs"),
    (".ci/run", "the gate itself"),
    (".ci/run quick", "the first half of the gate itself"),
    (".ci/run fix", "writes, so a gate may not; it is `cargo fmt` and `cargo clippy --fix`"),
    ("cargo new game", "`.ci/listing` is the result"),
    ("cargo add epicserver", "`.ci/listing` is the result"),
    ("cargo run --release", "in a user's own crate; `.ci/listing` is one"),
];

/// What a reader must find on the page.
const WANTED: &[&str] =
    &["cargo run --release --example barrels", "cargo test --workspace", ".ci/run"];

/// All findings of this family.
pub fn check(page: &str, gate: &str) -> Vec<Finding> {
    let known = gate_commands(gate);
    let shown = page_commands(page);
    let mut findings = unused_stages(gate);
    for wanted in
        WANTED.iter().filter(|wanted| !shown.iter().any(|(_, command)| command == *wanted))
    {
        findings.push(Finding::new(PAGE, 0, format!("no `sh` block shows `{wanted}`")));
    }
    for (line, command) in shown {
        let elsewhere = ELSEWHERE.iter().any(|(there, _)| *there == command);
        if !elsewhere && !known.iter().any(|known| same(known, &words(&command))) {
            let what = format!("`{command}` is run neither by the gate nor by a test");
            findings.push(Finding::new(PAGE, line, what));
        }
    }
    findings
}

/// The commands in blocks of `sh`, without comments and prompts.
fn page_commands(page: &str) -> Vec<(usize, String)> {
    let mut commands = Vec::new();
    let mut shell = false;
    for (at, line) in page.lines().enumerate() {
        if let Some(opened) = line.trim().strip_prefix("```") {
            shell = !shell && ["sh", "bash", "shell", "console"].contains(&opened);
        } else if shell {
            let command = line.split(" #").next().unwrap_or(line).trim().trim_start_matches("$ ");
            if !command.is_empty() && !command.starts_with('#') {
                commands.push((at + 1, command.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
        }
    }
    commands
}

fn gate_commands(gate: &str) -> Vec<Vec<String>> {
    gate.lines().filter_map(|line| line.trim().strip_prefix("run ")).map(words).collect()
}

/// The words of a command as a shell takes them, up to a pipe or redirection, without what sets its environment.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in command.chars() {
        match quote {
            Some(open) if open == c => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => words.push(String::new()),
            Some(_) | None => words.last_mut().expect("there is a word").push(c),
        }
    }
    let setting = |word: &String| word.is_empty() || word == "env" || word.contains('=');
    let ends =
        |word: &String| word.starts_with(['|', '>', '<', ';']) || word == "&&" || word == "2>&1";
    let words = words.into_iter().skip_while(setting).take_while(|word| !ends(word));
    words.filter(|word| !word.is_empty()).collect()
}

fn same(gate: &[String], page: &[String]) -> bool {
    let equal = |(gate, page): (&String, &String)| gate == page || gate.contains('$');
    gate.len() == page.len() && gate.iter().zip(page).all(equal)
}

fn unused_stages(gate: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in gate.lines().enumerate() {
        let Some(name) = line.strip_prefix("stage_").and_then(|rest| rest.strip_suffix("() {"))
        else {
            continue;
        };
        let listed = |line: &str| {
            let list = line.split_once("STAGES=(").map(|(_, list)| list.trim_end_matches(')'));
            list.is_some_and(|list| list.split_whitespace().any(|stage| stage == name))
        };
        if !gate.lines().any(listed) {
            findings.push(Finding::new(GATE, at + 1, format!("the stage {name} is in no list")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE_SAMPLE: &str = "\
QUICK_STAGES=(test)
FULL_STAGES=(sim barrels)
stage_barrels() {
    run cargo run --release --example barrels
}
stage_test() {
    run cargo test --workspace
}
stage_sim() {
    run env A=1 cargo run -p sim -- --seeds \"$seeds\" | tee log
}
";

    const WANTED_SAMPLE: &str =
        "```sh\ncargo run --release --example barrels\ncargo test --workspace\n.ci/run\n```\n";

    fn found(page: &str) -> usize {
        check(&format!("{WANTED_SAMPLE}{page}"), GATE_SAMPLE).len()
    }

    #[test]
    fn a_page_without_the_promised_commands_is_found() {
        assert_eq!(check("", GATE_SAMPLE).len(), WANTED.len());
    }

    #[test]
    fn a_command_that_nothing_runs_is_found() {
        assert_eq!(found("```sh\ncargo test --workspace   # the tests\n\n# a word\n```\n"), 0);
        assert_eq!(found("```sh\ncargo test --all\n```\n"), 1);
        assert_eq!(found("```text\ncargo test --all\n```\n"), 0);
        assert_eq!(found("```sh\n.ci/run quick\n```\n```rust\ncargo\n```\n"), 0);
    }

    #[test]
    fn a_word_of_the_gate_with_a_dollar_stands_for_one_word() {
        assert_eq!(found("```sh\ncargo run -p sim -- --seeds 100\n```\n"), 0);
        assert_eq!(found("```sh\ncargo run -p sim -- --seeds 100 --seed 1\n```\n"), 1);
    }

    #[test]
    fn quotes_and_settings_are_taken_as_a_shell_takes_them() {
        assert_eq!(
            words("env A=\"b c\" cargo test --test 'x_*' >\"$log\" 2>&1"),
            ["cargo", "test", "--test", "x_*"]
        );
        assert!(words("A=1 B=\"2 3\"").is_empty());
    }

    #[test]
    fn a_stage_in_no_list_is_found() {
        let gate = GATE_SAMPLE.replace("(sim barrels)", "(barrels)");
        assert_eq!(check(WANTED_SAMPLE, &gate).len(), 1);
        assert_eq!(found(""), 0);
    }
}
