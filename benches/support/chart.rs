//! Line charts as SVG, for the README: self-contained, readable on light and on dark, the same bytes for the same values.

use std::fmt::Write;

use super::Options;
use super::picture::{
    COLORS, draw_legend, escaped, header, linear_marks, number, tidy, write_picture,
};

/// The picture, in units of the SVG.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;

/// The edges of the area with the lines.
const LEFT: f64 = 78.0;
const RIGHT: f64 = WIDTH - 34.0;
const TOP: f64 = 74.0;
const BOTTOM: f64 = HEIGHT - 58.0;

/// A line with more points than this has no dots.
const DOTS_MAX: usize = 24;

/// An axis: its label and its scale.
pub struct Axis {
    label: String,
    is_log: bool,
    /// Chosen by the values if empty.
    ticks: Vec<(f64, String)>,
}

/// A chart of lines.
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Axis {
    /// From 0 on, in equal steps.
    pub fn linear(label: &str) -> Axis {
        Axis { label: label.to_owned(), is_log: false, ticks: Vec::new() }
    }

    /// In equal factors; values are above 0.
    pub fn log(label: &str) -> Axis {
        Axis { is_log: true, ..Axis::linear(label) }
    }

    /// With these places marked, the first and the last of which are its ends.
    pub fn marked(mut self, ticks: &[(f64, &str)]) -> Axis {
        self.ticks = ticks.iter().map(|(value, text)| (*value, (*text).to_owned())).collect();
        self
    }

    /// Chooses marks around these values, if none are set.
    fn fit(&mut self, values: impl Iterator<Item = f64> + Clone) {
        if !self.ticks.is_empty() {
            return;
        }
        let most = values.clone().fold(f64::MIN, f64::max);
        let marks = match self.is_log {
            true => log_marks(values.fold(f64::MAX, f64::min), most),
            false => linear_marks(most),
        };
        self.ticks = marks.into_iter().map(|value| (value, number(value))).collect();
    }

    /// The place of a value between the ends, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_log { value.log10() } else { value };
        let first = scale(self.ticks[0].0);
        let last = scale(self.ticks[self.ticks.len() - 1].0);
        (scale(value) - first) / (last - first)
    }
}

impl Chart {
    /// Without a line yet.
    pub fn new(title: &str, x: Axis, y: Axis) -> Chart {
        Chart { title: title.to_owned(), x, y, series: Vec::new() }
    }

    /// With one more line through these points.
    pub fn with(mut self, name: &str, points: Vec<(f64, f64)>) -> Chart {
        assert!(self.series.len() < COLORS.len(), "each line has a color of its own");
        assert!(!points.is_empty(), "a line has points");
        self.series.push((name.to_owned(), points));
        self
    }

    /// Writes the picture: see [`write_picture`].
    pub fn write(self, name: &str, options: &Options) {
        write_picture(name, options, &self.svg());
    }

    /// The text of the picture.
    pub fn svg(mut self) -> String {
        let points = self.series.iter().flat_map(|(_, points)| points);
        self.x.fit(points.clone().map(|point| point.0));
        self.y.fit(points.map(|point| point.1));
        let mut out = header(&self.title, WIDTH, HEIGHT, self.series.len());
        self.draw_grid(&mut out);
        let names: Vec<String> = self.series.iter().map(|(name, _)| name.clone()).collect();
        draw_legend(&mut out, WIDTH, &names);
        for (number, (_, points)) in self.series.iter().enumerate() {
            self.draw_line(&mut out, number, points);
        }
        out.push_str("</svg>\n");
        out
    }

    fn draw_grid(&self, out: &mut String) {
        for (value, text) in &self.x.ticks {
            let (x, text) = (self.x_of(*value), escaped(text));
            let (end, below) = (BOTTOM + 5.0, BOTTOM + 21.0);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{x} {TOP}V{end}\"/>\
                 <text x=\"{x}\" y=\"{below}\" text-anchor=\"middle\">{text}</text>"
            );
        }
        for (value, text) in &self.y.ticks {
            let (y, text) = (self.y_of(*value), escaped(text));
            let (start, before, base) = (LEFT - 5.0, LEFT - 9.0, tidy(y + 4.5));
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{start} {y}H{RIGHT}\"/>\
                 <text x=\"{before}\" y=\"{base}\" text-anchor=\"end\">{text}</text>"
            );
        }
        let (middle, base) = ((LEFT + RIGHT) / 2.0, HEIGHT - 14.0);
        let (x, y) = (escaped(&self.x.label), escaped(&self.y.label));
        let height = (TOP + BOTTOM) / 2.0;
        let _ = write!(
            out,
            "<text x=\"{middle}\" y=\"{base}\" text-anchor=\"middle\">{x}</text>\n\
             <text transform=\"translate(20 {height}) rotate(-90)\" text-anchor=\"middle\">{y}</text>\n"
        );
    }

    fn draw_line(&self, out: &mut String, number: usize, points: &[(f64, f64)]) {
        let places: Vec<(f64, f64)> =
            points.iter().map(|(x, y)| (self.x_of(*x), self.y_of(*y))).collect();
        let _ = write!(out, "<polyline class=\"line s{number}\" points=\"");
        for (place, (x, y)) in places.iter().enumerate() {
            let space = if place == 0 { "" } else { " " };
            let _ = write!(out, "{space}{x},{y}");
        }
        out.push_str("\"/>\n");
        for (x, y) in places.iter().filter(|_| places.len() <= DOTS_MAX) {
            let _ = writeln!(out, "<circle class=\"s{number}\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>");
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        tidy(LEFT + self.x.share(value) * (RIGHT - LEFT))
    }

    fn y_of(&self, value: f64) -> f64 {
        tidy(BOTTOM - self.y.share(value) * (BOTTOM - TOP))
    }
}

/// Powers of ten around all values, and between them 2 and 5 times those if there are few.
fn log_marks(least: f64, most: f64) -> Vec<f64> {
    assert!(least > 0.0, "a log axis shows values above 0");
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let factors: &[f64] = if high - low <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all: Vec<f64> = (low..=high)
        .flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)))
        .collect();
    let first = all.iter().rposition(|mark| *mark <= least).unwrap_or(0);
    let last = all.iter().position(|mark| *mark >= most).unwrap_or(all.len() - 1).max(first + 1);
    all[first..=last].to_vec()
}
