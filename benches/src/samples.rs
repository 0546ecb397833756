//! Interleaved rounds, their ratios, and the quartiles of both.

use crate::error::Result;

/// What each round measured, by column.
pub(crate) struct Samples<C> {
    columns: Vec<(C, Vec<f64>)>,
}

/// Measures every column once per round, in an order in which each follows each other one equally often. What comes
/// before matters: the first and last of an order that was only reversed took 7 % longer than the same in the middle.
pub(crate) fn interleave<C: Copy + PartialEq>(
    rounds: usize,
    columns: &[C],
    mut measure: impl FnMut(C) -> Result<f64>,
) -> Result<Samples<C>> {
    let mut columns: Vec<(C, Vec<f64>)> = columns.iter().map(|column| (*column, Vec::new())).collect();
    for round in 0..rounds {
        for place in order(round, columns.len()) {
            if let Some((column, values)) = columns.get_mut(place) {
                values.push(measure(*column)?);
            }
        }
    }
    Ok(Samples { columns })
}

/// The rows of a Williams square: 0, n-1, 1, n-2, ..., each row one further than the one before; after `columns` rows, the
/// same backwards, which an odd number of columns needs.
fn order(round: usize, columns: usize) -> Vec<usize> {
    let zigzag = |step: usize| if step.is_multiple_of(2) { step / 2 } else { columns - step.div_ceil(2) };
    let mut row: Vec<usize> = (0..columns).map(|step| (zigzag(step) + round) % columns).collect();
    if round.checked_div(columns).is_some_and(|turn| !turn.is_multiple_of(2)) {
        row.reverse();
    }
    row
}

impl<C: Copy + PartialEq> Samples<C> {
    /// The measurements of one column, in the order of the rounds; empty if it was not among the columns.
    pub(crate) fn of(&self, column: C) -> &[f64] {
        self.columns.iter().find(|(name, _)| *name == column).map_or(&[], |(_, values)| values)
    }

    /// For every round, `over / under`.
    pub(crate) fn ratios(&self, over: C, under: C) -> Vec<f64> {
        self.of(over).iter().zip(self.of(under)).map(|(over, under)| over / under).collect()
    }
}

/// Where the middle of some numbers lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The smallest.
    pub(crate) min: f64,
    /// The lower quartile.
    pub(crate) low: f64,
    /// The median.
    pub(crate) median: f64,
    /// The upper quartile.
    pub(crate) high: f64,
}

impl Summary {
    /// The quartiles of `values`, or none without values.
    pub(crate) fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quarter = |quarters: usize| -> Option<f64> {
            // Linear between the two neighbours, in units of a quarter of a step.
            let place = sorted.len().checked_sub(1)? * quarters;
            let below = *sorted.get(place / 4)?;
            let above = *sorted.get(place.div_ceil(4))?;
            Some(below + (above - below) * (place % 4) as f64 / 4.0)
        };
        Some(Summary { min: quarter(0)?, low: quarter(1)?, median: quarter(2)?, high: quarter(3)? })
    }
}

/// The median of `values`; NaN without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    Summary::of(values).map_or(f64::NAN, |summary| summary.median)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn quartiles_of_five() {
        let summary = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(summary, Some(Summary { min: 1.0, low: 2.0, median: 3.0, high: 4.0 }));
    }

    #[test]
    fn quartiles_between_two() {
        let summary = Summary::of(&[1.0, 2.0]);
        assert_eq!(summary, Some(Summary { min: 1.0, low: 1.25, median: 1.5, high: 1.75 }));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn each_column_follows_each_other_one_equally_often() {
        for columns in 1..=10 {
            let mut after = vec![vec![0; columns]; columns];
            for round in 0..2 * columns {
                let row = order(round, columns);
                assert_eq!(row.iter().copied().collect::<BTreeSet<_>>().len(), columns, "{row:?}");
                for pair in row.windows(2) {
                    after[pair[1]][pair[0]] += 1;
                }
            }
            for (column, before) in after.iter().enumerate() {
                for (other, times) in before.iter().enumerate() {
                    assert_eq!(
                        *times,
                        if column == other { 0 } else { 2 },
                        "{column} after {other} of {columns}"
                    );
                }
            }
        }
    }

    #[test]
    fn ratios_belong_to_one_round_whatever_its_order() -> Result<()> {
        let mut now = 0.0;
        let samples = interleave(3, &['a', 'b'], |_| {
            now += 1.0;
            Ok(now)
        })?;
        assert_eq!(samples.of('a'), [1.0, 4.0, 6.0]);
        assert_eq!(samples.of('b'), [2.0, 3.0, 5.0]);
        assert_eq!(samples.ratios('b', 'a'), [2.0, 0.75, 5.0 / 6.0]);
        Ok(())
    }
}
