//! Bar charts as SVG, for the README: stacked parts of a whole, one bar below another, beside the line charts.

use std::fmt::Write;

use super::Options;
use super::picture::{
    COLORS, draw_legend, escaped, header, linear_marks, number, tidy, write_picture,
};

/// The picture, in units of the SVG.
const WIDTH: f64 = 760.0;

/// The edges of the area with the bars.
const LEFT: f64 = 190.0;
const RIGHT: f64 = WIDTH - 90.0;
const TOP: f64 = 74.0;

/// A bar, and the space from one to the next.
const BAR: f64 = 30.0;
const STEP: f64 = 48.0;

/// A chart of bars that consist of parts.
pub struct Bars {
    title: String,
    unit: String,
    parts: Vec<String>,
    bars: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// Without a bar yet: what each of them consists of, and what is measured.
    pub fn new(title: &str, unit: &str, parts: &[&str]) -> Bars {
        assert!(parts.len() <= COLORS.len(), "each part has a color of its own");
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        Bars { title: title.to_owned(), unit: unit.to_owned(), parts, bars: Vec::new() }
    }

    /// With one more bar of these parts.
    pub fn with(mut self, name: &str, values: &[f64]) -> Bars {
        assert_eq!(values.len(), self.parts.len(), "each part has a value");
        self.bars.push((name.to_owned(), values.to_vec()));
        self
    }

    /// Writes the picture where the line charts are written.
    pub fn write(self, name: &str, options: &Options) {
        write_picture(name, options, &self.svg());
    }

    fn svg(&self) -> String {
        let bottom = TOP + STEP * self.bars.len() as f64;
        let most = self.bars.iter().map(|bar| bar.1.iter().sum::<f64>()).fold(0.0, f64::max);
        let marks = linear_marks(most);
        let end = marks[marks.len() - 1];
        let x_of = |value: f64| tidy(LEFT + value / end * (RIGHT - LEFT));
        let mut out = header(&self.title, WIDTH, bottom + 58.0, self.parts.len());
        for mark in &marks {
            let (x, low, below, text) = (x_of(*mark), bottom + 5.0, bottom + 21.0, number(*mark));
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{x} {TOP}V{low}\"/>\
                 <text x=\"{x}\" y=\"{below}\" text-anchor=\"middle\">{text}</text>"
            );
        }
        let (middle, base) = ((LEFT + RIGHT) / 2.0, bottom + 44.0);
        let unit = escaped(&self.unit);
        let _ =
            writeln!(out, "<text x=\"{middle}\" y=\"{base}\" text-anchor=\"middle\">{unit}</text>");
        draw_legend(&mut out, WIDTH, &self.parts);
        for (place, (name, values)) in self.bars.iter().enumerate() {
            let top = TOP + STEP * place as f64 + (STEP - BAR) / 2.0;
            let base = tidy(top + BAR / 2.0 + 4.5);
            let (before, name) = (LEFT - 9.0, escaped(name));
            let _ = writeln!(
                out,
                "<text x=\"{before}\" y=\"{base}\" text-anchor=\"end\">{name}</text>"
            );
            let mut sum = 0.0;
            for (part, value) in values.iter().enumerate() {
                let start = x_of(sum);
                sum += value;
                let width = tidy(x_of(sum) - start);
                let _ = writeln!(
                    out,
                    "<rect class=\"s{part}\" x=\"{start}\" y=\"{top}\" width=\"{width}\" height=\"{BAR}\"/>"
                );
            }
            let (behind, sum) = (tidy(x_of(sum) + 6.0), number((sum * 10.0).round() / 10.0));
            let _ = writeln!(out, "<text x=\"{behind}\" y=\"{base}\">{sum}</text>");
        }
        out.push_str("</svg>\n");
        out
    }
}
