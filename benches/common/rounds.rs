//! Interleaved rounds over three: a baseline, the subject, and the baseline again. The ratio of the two baselines (A/A)
//! says how far apart two equal ones come out, and so how much of the subject's ratio means anything.

use super::Result;
use super::figures::{Sample, verdict};

/// One round: each is measured once, in an order that turns, so that none always comes first after another.
pub fn round<F>(n: usize, mut measure: impl FnMut(usize) -> Result<F>) -> Result<[F; 3]> {
    let mut figures = [None, None, None];
    for turn in 0..figures.len() {
        let at = (n + turn) % figures.len();
        figures[at] = Some(measure(at)?);
    }
    match figures {
        [Some(baseline), Some(subject), Some(again)] => Ok([baseline, subject, again]),
        _ => Err("one was left out".into()),
    }
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// That much of the baseline's, or more.
    AtLeast(f64),
    /// That many times the baseline's, or fewer.
    AtMost(f64),
    /// Whatever it is.
    None,
}

/// The line above the ratios.
pub fn print_ratios_head(subject: &str) {
    println!("  {:<12} {subject:>26} {:>22}", "ratio", "A/A");
}

/// Prints the ratios within each round; whether their median is as it should be.
pub fn print_ratio<F>(what: &str, rounds: &[[F; 3]], field: impl Fn(&F) -> f64, target: Target) -> bool {
    let ratio = |n: usize| rounds.iter().map(|r| field(&r[n]) / field(&r[0])).collect::<Sample>();
    let (subject, again) = (ratio(1), ratio(2));
    let (met, judged) = match target {
        Target::AtLeast(least) => (subject.median() >= least, format!("  ≥ {least}: ")),
        Target::AtMost(most) => (subject.median() <= most, format!("  ≤ {most}: ")),
        Target::None => (true, String::new()),
    };
    let verdict = if judged.is_empty() { "" } else { verdict(met) };
    println!("  {what:<12} {:>26} {:>22}{judged}{verdict}", subject.show(3), again.show(3));
    met
}
