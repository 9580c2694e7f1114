//! Charts, drawn by plotters into SVG.
//!
//! plotters knows colours and no styles, so every role has a colour of its own
//! that is replaced by a style sheet's variable afterwards: a drawing follows
//! the page into light, dark and print.

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    },
    prelude::*,
};

use super::{
    PageError,
    axis::{bounds, tick},
    html::{self, escaped},
    marks::{self, Mark, Shape},
};
use crate::table::Table;

pub(super) const WIDTH: u32 = 860;
const HEIGHT: u32 = 400;
pub(super) const INK: RGBColor = RGBColor(1, 1, 1);
pub(super) const GRID: RGBColor = RGBColor(2, 2, 2);
/// Colours the style sheet has for series.
pub(super) const SERIES: usize = 14;
/// The colour of what was seen in a kernel, which no other series has.
pub(super) const REAL: usize = SERIES;

/// One point of a series.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    /// Its 95 % interval.
    pub(super) ci95: Option<(f64, f64)>,
    /// What is said of it, after its series' name.
    pub(super) says: String,
}

/// Points that belong together.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// Its colour, where that is not one of its own: series that belong together share it.
    pub(super) hue: Option<usize>,
    /// Joined by a line; a dashed one is not measured but extrapolated.
    pub(super) line: Line,
    pub(super) points: Vec<Point>,
}

/// How points are joined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    None,
    Measured,
    Thick,
    Extrapolated,
}

/// A chart of points over a logarithmic axis of numbers, or over names.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: &'static str,
    pub(super) series: Vec<Series>,
}

/// A horizontal axis.
pub(super) enum Axis {
    /// Numbers, on a logarithmic scale, and how to write them.
    Numbers(&'static str, fn(f64) -> String),
    /// Names, one place each.
    Names(Vec<String>),
}

/// What was drawn.
pub(super) struct Drawing {
    pub(super) title: String,
    pub(super) svg: String,
    pub(super) legend: Vec<Entry>,
    pub(super) says: Vec<String>,
    pub(super) table: Option<Table>,
}

/// A series in the legend.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Option<Shape>,
    pub(super) hue: usize,
}

impl Drawing {
    /// A table in the place of a drawing.
    pub(super) fn of_table(table: Table) -> Self {
        Self {
            title: table.title().to_owned(),
            svg: String::new(),
            legend: Vec::new(),
            says: Vec::new(),
            table: Some(table),
        }
    }

    pub(super) fn html(&self) -> String {
        if let Some(table) = &self.table {
            return html::table(table);
        }
        let mut out = format!(
            "<figure><figcaption>{}</figcaption>\n<div class=\"wide\">{}</div>\n<div class=\"legend\">",
            escaped(&self.title),
            self.svg
        );
        for (index, entry) in self.legend.iter().enumerate() {
            let look = entry.shape.map_or("disc", Shape::class);
            out.push_str(&format!(
                "<button type=\"button\" aria-pressed=\"true\" data-s=\"{index}\" \
                 style=\"--c:var(--s{})\"><i class=\"{look}\"></i>{}</button>",
                entry.hue,
                escaped(&entry.name)
            ));
        }
        out.push_str("</div>\n");
        let table = marks::table(self.says.iter().map(String::as_str));
        out.push_str(&html::folded("the same as a table", &html::table(&table)));
        out.push_str("</figure>\n");
        out
    }
}

/// What a series' lines are drawn in until the style sheet's variable replaces it:
/// its hue and its number tell it from every other.
fn colour(number: usize, hue: usize, extrapolated: bool) -> RGBColor {
    let byte = |n: usize| (n % 256) as u8;
    RGBColor(10 + u8::from(extrapolated), byte(hue), byte(number))
}

/// The drawing with the style sheet's variables for its colours.
pub(super) fn styled(svg: &str, title: &str, overlay: &str, series: &[Series]) -> String {
    let mut out = svg
        .replace("\"#010101\"", "\"var(--ink)\"")
        .replace("\"#020202\"", "\"var(--grid)\"");
    for (number, (one, hue)) in series.iter().zip(hues(series)).enumerate() {
        let extrapolated = one.line == Line::Extrapolated;
        let RGBColor(r, g, b) = colour(number, hue, extrapolated);
        let plain = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
        let dashes = if extrapolated {
            " stroke-dasharray=\"2 6\""
        } else {
            ""
        };
        let style = format!("data-s=\"{number}\" stroke=\"var(--s{hue})\"{dashes}");
        out = out.replace(&plain, &style);
    }
    let label = format!(
        "<svg class=\"plot\" tabindex=\"0\" role=\"group\" aria-label=\"{}\" ",
        escaped(title)
    );
    out = out.replacen("<svg ", &label, 1);
    out.replacen("</svg>", &format!("{overlay}</svg>"), 1)
}

/// The numbers of the series' colours in the style sheet. Those that look alike get one
/// each as long as there are any.
fn hues(series: &[Series]) -> Vec<usize> {
    let alike = |number: usize| {
        let before = series[..number].iter();
        before.filter(move |one| one.hue.is_none() && one.shape == series[number].shape)
    };
    let hue = |number: usize| series[number].hue.unwrap_or(alike(number).count() % SERIES);
    (0..series.len()).map(hue).collect()
}

/// The name of the horizontal axis, how its numbers are written, and the ranges of both.
type Labels<'a> = (
    &'a str,
    &'a dyn Fn(&f64) -> String,
    (Range<f64>, Range<f64>),
);

impl Chart {
    /// Draws the chart.
    pub(super) fn draw(&self) -> Result<Drawing, PageError> {
        let failed = |cause: String| PageError {
            figure: self.title.clone(),
            cause,
        };
        let mut svg = String::new();
        let (marks, names) = {
            let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            let range = bounds(self.values());
            let y = range.clone().log_scale();
            match &self.x {
                Axis::Numbers(name, shown) => {
                    let xs = self
                        .series
                        .iter()
                        .flat_map(|s| s.points.iter().map(|p| p.x));
                    let within = (bounds(xs), range);
                    let x = within.0.clone().log_scale();
                    self.plot(&area, x, y, (name, &|v| shown(*v), within))
                }
                Axis::Names(names) => {
                    let x = -0.5..names.len() as f64 - 0.5;
                    let within = (x.clone(), range);
                    self.plot(&area, x, y, ("", &|_| String::new(), within))
                }
            }
            .map_err(failed)?
        };
        let overlay: String = names
            .into_iter()
            .chain(marks.iter().map(Mark::svg))
            .collect();
        Ok(Drawing {
            svg: styled(&svg, &self.title, &overlay, &self.series),
            title: self.title.clone(),
            legend: self
                .series
                .iter()
                .zip(hues(&self.series))
                .map(|(s, hue)| Entry {
                    name: s.name.clone(),
                    shape: Some(s.shape),
                    hue,
                })
                .collect(),
            says: marks.into_iter().map(|m| m.says).collect(),
            table: None,
        })
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        let points = self.series.iter().flat_map(|s| &s.points);
        points.flat_map(|p| {
            [Some(p.y), p.ci95.map(|c| c.0), p.ci95.map(|c| c.1)]
                .into_iter()
                .flatten()
        })
    }

    fn plot<X, Y>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        x: X,
        y: Y,
        (x_name, x_shown, (x_range, y_range)): Labels<'_>,
    ) -> Result<(Vec<Mark>, Vec<String>), String>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let names = matches!(self.x, Axis::Names(_));
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(if names { 96 } else { 44 })
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)
            .map_err(|e| e.to_string())?;
        let text = ("sans-serif", 13).into_font().color(&INK);
        let ticks = match &self.x {
            Axis::Names(names) => names.len().max(2) * 2 + 1,
            Axis::Numbers(..) => 10,
        };
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(text)
            .x_labels(ticks)
            .x_desc(x_name)
            .y_desc(self.y)
            .x_label_formatter(&x_shown)
            .y_label_formatter(&|v| tick(*v))
            .draw()
            .map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        for (number, (series, hue)) in self.series.iter().zip(hues(&self.series)).enumerate() {
            let color = colour(number, hue, series.line == Line::Extrapolated);
            let is_within = |p: &&Point| x_range.contains(&p.x) && y_range.contains(&p.y);
            let points = series.points.iter().filter(is_within);
            if series.line != Line::None {
                let width = if series.line == Line::Thick { 3 } else { 1 };
                let line = points.clone().map(|p| (p.x, p.y));
                chart
                    .draw_series(LineSeries::new(line, color.stroke_width(width)))
                    .map_err(|e| e.to_string())?;
            }
            for point in points {
                if let Some((low, high)) = point.ci95.filter(|c| c.0 > 0.0 && c.1 > c.0) {
                    let low = low.max(y_range.start);
                    let bar = [(point.x, low), (point.x, high)];
                    chart
                        .draw_series([PathElement::new(bar, color.stroke_width(1))])
                        .map_err(|e| e.to_string())?;
                }
                found.push(Mark {
                    at: chart.backend_coord(&(point.x, point.y)),
                    series: number,
                    hue,
                    shape: series.shape,
                    says: format!("{}: {}", series.name, point.says),
                });
            }
        }
        let names: Vec<String> = match &self.x {
            Axis::Names(names) => names
                .iter()
                .enumerate()
                .map(|(place, name)| {
                    slanted(name, chart.backend_coord(&(place as f64, y_range.start)))
                })
                .collect(),
            Axis::Numbers(..) => Vec::new(),
        };
        area.present().map_err(|e| e.to_string())?;
        Ok((found, names))
    }
}

/// A name below an axis, leaning so that many have room.
fn slanted(name: &str, (x, y): (i32, i32)) -> String {
    let (x, y) = (x + 4, y + 16);
    format!(
        "<text x=\"{x}\" y=\"{y}\" font-size=\"11\" text-anchor=\"end\" fill=\"var(--ink)\" \
         transform=\"rotate(-35 {x} {y})\">{}</text>\n",
        escaped(name)
    )
}
