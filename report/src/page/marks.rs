//! The points of a drawing that can be pointed at: drawn over what the plotting
//! library has drawn, at the places it says, each with its exact figures.

use super::{chart::SERIES, html::escaped};
use crate::{
    summary,
    table::{Column, Table},
};

/// How a mark looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Synthetic: a lock scheme.
    Disc,
    /// Synthetic: what a Rust programmer would reach for instead.
    Square,
    /// Synthetic: what no scheme can be faster than.
    Triangle,
    /// Real.
    Diamond,
    /// The state that others are held against.
    Ring,
}

impl Shape {
    /// That of a row of a bench result.
    pub(super) fn of(scheme: &str) -> Self {
        if summary::is_peer(scheme) {
            Self::Square
        } else if summary::is_limit(scheme) {
            Self::Triangle
        } else {
            Self::Disc
        }
    }

    /// Its class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Diamond => "diamond",
            Self::Ring => "ring",
        }
    }
}

/// A mark at a place of the drawing, pixels.
pub(super) struct Mark {
    pub(super) at: (i32, i32),
    pub(super) series: usize,
    /// Number of its colour.
    pub(super) hue: usize,
    pub(super) shape: Shape,
    /// What it says, figures and units included.
    pub(super) says: String,
}

impl Mark {
    pub(super) fn svg(&self) -> String {
        let (x, y) = self.at;
        let shape = match self.shape {
            Shape::Disc => format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"3.5\"/>"),
            Shape::Ring => format!("<circle class=\"ring\" cx=\"{x}\" cy=\"{y}\" r=\"4.5\"/>"),
            Shape::Square => format!(
                "<rect x=\"{}\" y=\"{}\" width=\"7\" height=\"7\"/>",
                x - 3,
                y - 3
            ),
            Shape::Triangle => {
                let (left, right, top, base) = (x - 5, x + 5, y - 5, y + 4);
                format!("<path d=\"M{x} {top} L{right} {base} L{left} {base} Z\"/>")
            }
            Shape::Diamond => {
                let (left, right, top, bottom) = (x - 7, x + 7, y - 7, y + 7);
                format!("<path d=\"M{x} {top} L{right} {y} L{x} {bottom} L{left} {y} Z\"/>")
            }
        };
        let says = escaped(&self.says);
        format!(
            "<g class=\"m\" role=\"img\" data-s=\"{}\" aria-label=\"{says}\" \
             style=\"--c:var(--s{})\">{shape}</g>\n",
            self.series, self.hue
        )
    }
}

/// A part of a bar, pixels.
pub(super) struct Part {
    pub(super) from: (i32, i32),
    pub(super) to: (i32, i32),
    pub(super) series: usize,
    pub(super) says: String,
}

impl Part {
    pub(super) fn svg(&self) -> String {
        let (x, y) = (self.from.0.min(self.to.0), self.from.1.min(self.to.1));
        let (w, h) = (
            self.from.0.abs_diff(self.to.0),
            self.from.1.abs_diff(self.to.1),
        );
        format!(
            "<g class=\"m bar\" role=\"img\" data-s=\"{}\" aria-label=\"{}\" \
             style=\"--c:var(--s{})\"><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"/></g>\n",
            self.series,
            escaped(&self.says),
            self.series % SERIES,
            w.max(1),
            h.max(1)
        )
    }
}

/// What the marks say, as a table for those who do not point.
pub(super) fn table<'a>(says: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new("", vec![Column::text("mark"), Column::text("figures")]);
    for text in says {
        let (name, figures) = text.split_once(": ").unwrap_or((text, ""));
        table.row(vec![name.to_owned(), figures.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of a piece of SVG, in order.
    fn numbers(svg: &str) -> Vec<i32> {
        let parts = svg.split(|c: char| !c.is_ascii_digit() && c != '-');
        parts.filter_map(|part| part.parse().ok()).collect()
    }

    #[test]
    fn every_corner_of_a_mark_is_near_its_place() {
        let at = (300, 700);
        for shape in [Shape::Triangle, Shape::Diamond] {
            let (series, hue, says) = (0, 0, String::new());
            let mark = Mark {
                at,
                series,
                hue,
                shape,
                says,
            };
            let svg = mark.svg();
            let path = svg.split_once(" d=\"").expect("a path").1;
            let corners = numbers(path.split_once('"').expect("its end").0);
            assert!(corners.len() >= 6, "{svg}");
            for corner in corners.chunks(2) {
                let far = (corner[0] - at.0).abs().max((corner[1] - at.1).abs());
                assert!(far <= 8, "{corner:?} of {}: {svg}", shape.class());
            }
        }
    }
}
