//! Stacked bars, drawn by plotters into SVG as the charts are.

use plotters::{coord::Shift, prelude::*};

use super::{
    PageError,
    axis::shown,
    chart::{Drawing, Entry, GRID, INK, WIDTH, styled},
    marks::Part,
};
use crate::terminal::harmless;

/// Stacked horizontal bars.
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) unit: &'static str,
    /// Name of each bar, and the share of each series in it.
    pub(super) bars: Vec<(String, Vec<f64>)>,
    pub(super) series: Vec<String>,
}

/// The name at a place, and nothing between places.
fn name_at(names: &[String], at: f64) -> String {
    const LONGEST: usize = 16;
    let place = at.round();
    if (at - place).abs() > 1e-6 || place < 0.0 {
        return String::new();
    }
    let name = names.get(place as usize).map_or("", String::as_str);
    let name = harmless(name);
    if name.chars().count() <= LONGEST {
        return name.into_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

impl Bars {
    /// Draws the bars.
    pub(super) fn draw(&self) -> Result<Drawing, PageError> {
        let failed = |cause: String| PageError {
            figure: self.title.clone(),
            cause,
        };
        let mut svg = String::new();
        let parts = {
            let height = 80 + 34 * u32::try_from(self.bars.len()).unwrap_or(u32::MAX).min(60);
            let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            self.plot(&area).map_err(failed)?
        };
        let overlay: String = parts.iter().map(Part::svg).collect();
        Ok(Drawing {
            svg: styled(&svg, &self.title, &overlay, &[]),
            title: self.title.clone(),
            legend: self
                .series
                .iter()
                .enumerate()
                .map(|(hue, name)| Entry {
                    name: name.clone(),
                    shape: None,
                    hue,
                })
                .collect(),
            says: parts.into_iter().map(|p| p.says).collect(),
            table: None,
        })
    }

    fn plot(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<Vec<Part>, String> {
        let most = self
            .bars
            .iter()
            .map(|(_, parts)| parts.iter().sum::<f64>())
            .fold(0.0, f64::max);
        let rows = self.bars.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(170)
            .build_cartesian_2d(0.0..most.max(f64::MIN_POSITIVE) * 1.02, -0.5..rows - 0.5)
            .map_err(|e| e.to_string())?;
        let text = ("sans-serif", 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(text)
            .disable_y_mesh()
            .y_labels(self.bars.len().max(2) * 2 + 1)
            .x_labels(6)
            .x_desc(self.unit)
            .x_label_formatter(&|v| shown(*v))
            .y_label_formatter(&|v| self.bar_name(*v))
            .draw()
            .map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        for (row, (name, parts)) in self.bars.iter().enumerate() {
            let (mut from, y) = (0.0, row as f64);
            for (series, value) in parts.iter().enumerate().filter(|(_, v)| **v > 0.0) {
                found.push(Part {
                    from: chart.backend_coord(&(from, y - 0.35)),
                    to: chart.backend_coord(&(from + value, y + 0.35)),
                    series,
                    says: format!(
                        "{name}, {}: {} {}",
                        self.series[series],
                        shown(*value),
                        self.unit
                    ),
                });
                from += value;
            }
        }
        area.present().map_err(|e| e.to_string())?;
        Ok(found)
    }

    fn bar_name(&self, at: f64) -> String {
        let names: Vec<String> = self.bars.iter().map(|(name, _)| name.clone()).collect();
        name_at(&names, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bars_are_shown_and_not_obeyed() {
        let bars = Bars {
            title: "t".to_owned(),
            unit: "u",
            bars: vec![("a\u{1b}\u{202e}b".to_owned(), vec![1.0])],
            series: vec!["s".to_owned()],
        };
        let html = bars.draw().unwrap().html();
        assert!(!html.contains(['\u{1b}', '\u{202e}']), "{html}");
    }
}
