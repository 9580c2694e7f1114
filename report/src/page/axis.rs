//! Numbers on an axis: how far it reaches and how they are written.

use std::ops::Range;

use crate::table::{count, figure};

/// A number on a logarithmic axis: of each decade those that have room.
pub(super) fn tick(value: f64) -> String {
    let leading = value / 10_f64.powf(value.log10().floor());
    let has_room = [1.0, 2.0, 5.0, 10.0]
        .iter()
        .any(|n| (leading - n).abs() < 0.01);
    if has_room {
        shown(value)
    } else {
        String::new()
    }
}

/// A number, with separators where it is large.
pub(super) fn shown(value: f64) -> String {
    if value >= 100.0 {
        count(value.round() as u64)
    } else if value == 0.0 {
        "0".to_owned()
    } else {
        figure(value)
    }
}

/// Values that are nothing, and more than anything: a file may hold both.
const DRAWN: Range<f64> = 1e-100..1e100;
/// The longest axis: plotters never ends where it is infinitely long.
const MOST_DECADES: f64 = 1e15;

/// The range of an axis: a little more than its values, but for those far below the largest.
pub(super) fn bounds(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for value in values.filter(|v| DRAWN.contains(v)) {
        low = low.min(value);
        high = high.max(value);
    }
    if !low.is_finite() {
        return 1.0..10.0;
    }
    let end = (high * 1.3).max(low * 2.0);
    (low / 1.3).max(end / MOST_DECADES)..end
}

#[cfg(test)]
mod tests {
    use super::super::{
        chart::{Axis, Chart, Line, Point, Series},
        marks::Shape,
    };
    use super::*;

    #[test]
    fn what_is_next_to_nothing_is_left_out_of_a_drawing() {
        let point = |x, y| Point {
            x,
            y,
            ci95: Some((y / 2.0, y * 2.0)),
            says: format!("x{x:e}"),
        };
        let values = [1e-300, 1e-5, 1.0, 1e18, 1e300];
        let chart = Chart {
            title: "t".to_owned(),
            x: Axis::Numbers("x", |x| format!("{x}")),
            y: "y",
            series: vec![Series {
                name: "s".to_owned(),
                shape: Shape::Disc,
                hue: None,
                line: Line::Measured,
                points: values.map(|value| point(value, value)).into(),
            }],
        };
        let drawing = chart.draw().unwrap();
        assert_eq!(drawing.says, ["s: x1e18"]);
        assert_eq!(bounds([0.0, 13.0, f64::NAN].into_iter()), 10.0..26.0);
    }
}
