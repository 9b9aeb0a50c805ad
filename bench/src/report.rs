//! Reports: verdicts as text for a person and as JSON for whoever compares runs.
//!
//! # Invariants
//! - **B4** A ratio is ours / floor, for times and rates alike: below 1 is better for times and
//!   bytes, above 1 for rates. It is the median of the rounds' own ratios, not the ratio of the
//!   medians: a virtual machine whose CPUs are moved apart in the middle of a run has two prices of
//!   a cache line (45 and 380 ns were seen), and only what was measured side by side compares.
//!
//! # Not here
//! Measuring, and remembering earlier runs.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::case::{Better, Effort, Figure, Verdict, median};

/// What stands above a suite's cases.
pub(crate) fn heading(suite: &str, effort: Effort) -> String {
    format!(
        "suite {suite}: medians of {} rounds of {} ms, ours and floors in turn; ratio = ours / floor",
        effort.rounds,
        effort.measured.as_millis(),
    )
}

/// A figure in its unit, with its spread and, where single operations were timed, percentiles.
pub(crate) fn figure(figure: &Figure, unit: &str) -> String {
    let Figure { median, spread, latencies, .. } = figure;
    let mut text = format!("{:>12} {unit:<8} spread {:>4.0} %", number(*median), spread * 100.0);
    if let Some(latencies) = latencies {
        text.push_str("   ");
        text.push_str(&percentiles(latencies));
    }
    text
}

fn percentiles(latencies: &Histogram<u64>) -> String {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| latencies.value_at_quantile(part));
    format!("p50 {p50}  p99 {p99}  p99.9 {p999} ns")
}

/// Three figures or more, and thousands apart.
fn number(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 1000.0) };
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text.push_str(fraction);
    text
}

impl Verdict {
    fn ratio(&self, floor: &Figure) -> Option<f64> {
        let ours = self.ours.as_ref()?;
        median(ours.values.iter().zip(&floor.values).map(|(ours, floor)| ours / floor).collect())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let better = match self.better {
            Better::Lower => "lower is better",
            Better::Higher => "higher is better",
        };
        writeln!(f, "{}/{}  ({}, {better})", self.suite, self.case, self.unit)?;
        let skips_ours = self.skipped.iter().any(|(name, _)| *name == "ours");
        match &self.ours {
            Some(ours) => writeln!(f, "  {:<28} {}", "ours", figure(ours, self.unit))?,
            None if skips_ours => {}
            None => writeln!(f, "  {:<28} {:>12}", "ours", "-")?,
        }
        for (name, floor) in &self.floors {
            write!(f, "  {name:<28} {}", figure(floor, self.unit))?;
            match self.ratio(floor) {
                Some(ratio) => writeln!(f, "   ratio {ratio:.3}")?,
                None => writeln!(f)?,
            }
        }
        for (name, why) in &self.skipped {
            writeln!(f, "  {name:<28} SKIPPED: {why}")?;
        }
        Ok(())
    }
}

/// A list of `{suite, case, unit, ours, floor: {name: value}, ratio: {name: value}, spread}`.
/// `ours` and `spread` are null, and `ratio` empty, where there is nothing of ours to measure.
pub(crate) fn json(verdicts: &[Verdict]) -> serde_json::Result<String> {
    let list: Vec<Value> = verdicts.iter().map(object).collect();
    let mut text = serde_json::to_string_pretty(&list)?;
    text.push('\n');
    Ok(text)
}

fn object(verdict: &Verdict) -> Value {
    let (mut floor, mut ratio) = (Map::new(), Map::new());
    for (name, figure) in &verdict.floors {
        floor.insert((*name).to_owned(), figure.median.into());
        if let Some(value) = verdict.ratio(figure) {
            ratio.insert((*name).to_owned(), value.into());
        }
    }
    json!({
        "suite": verdict.suite,
        "case": verdict.case,
        "unit": verdict.unit,
        "ours": verdict.ours.as_ref().map(|ours| ours.median),
        "floor": floor,
        "ratio": ratio,
        "spread": verdict.ours.as_ref().map(|ours| ours.spread),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_figure(median: f64) -> Figure {
        Figure { values: vec![median], median, spread: 0.5, latencies: None }
    }

    fn a_verdict(ours: Option<f64>) -> Verdict {
        Verdict {
            suite: "call",
            case: "same_shard_seq",
            unit: "ns",
            better: Better::Lower,
            ours: ours.map(a_figure),
            floors: vec![("boxed_async_fn", a_figure(10.0)), ("tokio_ask", a_figure(200.0))],
            skipped: Vec::new(),
        }
    }

    #[test]
    fn the_json_file_has_the_agreed_fields() {
        let text = json(&[a_verdict(Some(20.0))]).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            read,
            json!([{
                "suite": "call", "case": "same_shard_seq", "unit": "ns", "ours": 20.0,
                "floor": {"boxed_async_fn": 10.0, "tokio_ask": 200.0},
                "ratio": {"boxed_async_fn": 2.0, "tokio_ask": 0.1},
                "spread": 0.5,
            }])
        );
    }

    #[test]
    fn a_case_without_ours_has_floors_and_no_ratio() {
        let text = json(&[a_verdict(None)]).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read[0]["ours"], Value::Null);
        assert_eq!(read[0]["ratio"], json!({}));
        assert_eq!(read[0]["floor"]["tokio_ask"], 200.0);
    }

    #[test]
    fn a_ratio_compares_what_was_measured_in_the_same_round() {
        let mut verdict = a_verdict(Some(30.0));
        // The machine turned ten times slower after the first round, for both.
        verdict.ours = Some(Figure { values: vec![30.0, 300.0, 300.0], ..a_figure(300.0) });
        let floor = Figure { values: vec![10.0, 100.0, 10.0], ..a_figure(10.0) };
        assert_eq!(verdict.ratio(&floor), Some(3.0));
    }

    #[test]
    fn numbers_keep_three_figures_and_part_thousands() {
        assert_eq!(
            [1.0, 12.34, 999.96, 1234.5, 12_345_678.0].map(number),
            ["1.00", "12.3", "1,000.0", "1,234", "12,345,678"]
        );
    }
}
