//! From a case that fails to a simpler one that fails alike: without kinds of faults that do not matter, cut at the end,
//! and with pieces in which nothing unusual is chosen.

use super::{Case, Fault, Outcome, run};

/// Pieces are not made smaller than this.
const LEAST_PIECE: usize = 8;

struct Shrinker {
    best: Case,
    /// How it fails, without numbers.
    failure: String,
    /// That may still be made.
    runs: usize,
}

/// The simplest case found in so many runs that fails as `case` does; `case` itself when it does not fail.
pub fn shrink(case: &Case, runs: usize) -> Case {
    let outcome = run(case);
    let Some(failure) = &outcome.failure else { return case.clone() };
    let mut shrinker = Shrinker { best: case.clone(), failure: shape(failure), runs };
    shrinker.drop_faults(&outcome);
    shrinker.cut();
    shrinker.calm();
    shrinker.best
}

/// A failure as it reads with other channels and other numbers.
fn shape(failure: &str) -> String {
    failure.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

impl Shrinker {
    /// Takes the case if it fails alike.
    fn try_case(&mut self, case: Case) -> bool {
        if self.runs == 0 {
            return false;
        }
        self.runs -= 1;
        let alike = run(&case).failure.is_some_and(|failure| shape(&failure) == self.failure);
        if alike {
            self.best = case;
        }
        alike
    }

    fn drop_faults(&mut self, outcome: &Outcome) {
        let happened = |(place, _): &(usize, &Fault)| outcome.faults[*place].1 > 0;
        let fired = Fault::ALL.iter().enumerate().filter(happened);
        let mask = fired.clone().fold(0, |mask, (place, _)| mask | 1 << place);
        self.try_case(Case { faults: self.best.faults & mask, ..self.best.clone() });
        for (place, _) in fired {
            self.try_case(Case { faults: self.best.faults & !(1 << place), ..self.best.clone() });
        }
    }

    fn cut(&mut self) {
        let (mut fits, mut short) = (run(&self.best).choices.min(self.best.end), 0);
        while fits - short > 1 && self.runs > 0 {
            let end = short + (fits - short) / 2;
            if self.try_case(Case { end, ..self.best.clone() }) {
                fits = end;
            } else {
                short = end;
            }
        }
    }

    fn calm(&mut self) {
        let end = self.best.end.min(run(&self.best).choices);
        let mut size = end / 2;
        while size >= LEAST_PIECE.max(end / 64) {
            for start in (0..end).step_by(size) {
                let piece = start..(start + size).min(end);
                if self.best.calm.iter().any(|calm| calm.start <= piece.start && piece.end <= calm.end) {
                    continue;
                }
                let mut calm = self.best.calm.clone();
                calm.push(piece);
                self.try_case(Case { calm: join(calm), ..self.best.clone() });
            }
            size /= 2;
        }
    }
}

/// The same pieces, those that touch as one.
fn join(mut pieces: Vec<std::ops::Range<usize>>) -> Vec<std::ops::Range<usize>> {
    pieces.sort_by_key(|piece| piece.start);
    let mut joined: Vec<std::ops::Range<usize>> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if piece.start <= last.end => last.end = last.end.max(piece.end),
            Some(_) | None => joined.push(piece),
        }
    }
    joined
}
