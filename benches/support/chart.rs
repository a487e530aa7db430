//! Line charts as SVG, for the README: self-contained, readable on light and on dark, the same bytes for the same values.

use std::fmt::Write;
use std::path::PathBuf;

use super::Options;
use super::report::grouped;

/// The picture, in units of the SVG.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;

/// The edges of the area with the lines.
const LEFT: f64 = 78.0;
const RIGHT: f64 = WIDTH - 34.0;
const TOP: f64 = 74.0;
const BOTTOM: f64 = HEIGHT - 58.0;

/// The approximate width of a letter of the legend: there is no font to ask.
const LETTER: f64 = 7.0;

/// A line with more points than this has no dots.
const DOTS_MAX: usize = 24;

/// Colors that people who confuse some can tell apart (Okabe and Ito), on light and on dark.
const COLORS: [(&str, &str); 6] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8a3d"),
    ("#009e73", "#2fd0a2"),
    ("#a3457f", "#e79ac6"),
    ("#7a6a00", "#e6d23c"),
    ("#555555", "#bbbbbb"),
];

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

    /// Writes the picture, and says where: below `benches/charts`, or from a quick run, whose figures say little, below
    /// `target`.
    pub fn write(self, name: &str, options: &Options) {
        let folder = match options.quick {
            true => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("charts"),
            false => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/charts"),
        };
        let file = folder.join(format!("{name}.svg"));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        std::fs::write(&file, self.svg()).expect("a picture can be written");
        println!("chart: {}\n", file.display());
    }

    /// The text of the picture.
    pub fn svg(mut self) -> String {
        let points = self.series.iter().flat_map(|(_, points)| points);
        self.x.fit(points.clone().map(|point| point.0));
        self.y.fit(points.map(|point| point.1));
        let mut out = String::new();
        self.open(&mut out);
        self.draw_grid(&mut out);
        self.draw_legend(&mut out);
        for (number, (_, points)) in self.series.iter().enumerate() {
            self.draw_line(&mut out, number, points);
        }
        out.push_str("</svg>\n");
        out
    }

    fn open(&self, out: &mut String) {
        let mut light = String::new();
        let mut dark = String::new();
        for (number, (on_light, on_dark)) in COLORS.iter().take(self.series.len()).enumerate() {
            let _ = write!(light, ".s{number}{{stroke:{on_light};fill:{on_light}}}");
            let _ = write!(dark, ".s{number}{{stroke:{on_dark};fill:{on_dark}}}");
        }
        let title = escaped(&self.title);
        let middle = WIDTH / 2.0;
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n<style>\n\
             text{{font:13px system-ui,-apple-system,\"Segoe UI\",Helvetica,Arial,sans-serif;\
             fill:#1f2328}}\n.title{{font-size:16px;font-weight:600}}\n.back{{fill:#ffffff}}\n\
             .grid{{stroke:#d8dee4;stroke-width:1}}\npolyline.line{{fill:none;stroke-width:2.25;\
             stroke-linejoin:round}}\n{light}\n@media (prefers-color-scheme:dark){{\n\
             text{{fill:#e6edf3}}\n.back{{fill:#0d1117}}\n.grid{{stroke:#30363d}}\n{dark}\n}}\n\
             </style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n\
             <text class=\"title\" x=\"{middle}\" y=\"28\" text-anchor=\"middle\">{title}</text>\n"
        );
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

    /// The names of the lines, in one row; a single line needs none, its axis names it.
    fn draw_legend(&self, out: &mut String) {
        if self.series.len() < 2 {
            return;
        }
        let width = |name: &str| 26.0 + name.chars().count() as f64 * LETTER + 18.0;
        let all: f64 = self.series.iter().map(|(name, _)| width(name)).sum();
        let mut x = (WIDTH - all).max(0.0) / 2.0;
        for (number, (name, _)) in self.series.iter().enumerate() {
            let (start, end, text) = (tidy(x), tidy(x + 20.0), tidy(x + 26.0));
            let _ = writeln!(
                out,
                "<path class=\"s{number}\" stroke-width=\"3\" d=\"M{start} 49H{end}\"/>\
                 <text x=\"{text}\" y=\"53.5\">{}</text>",
                escaped(name)
            );
            x += width(name);
        }
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

/// About six steps of 1, 2 or 5 times a power of ten, from 0 to what is not below `most`.
fn linear_marks(most: f64) -> Vec<f64> {
    let rough = (most / 6.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    let step = factor.unwrap_or(10.0) * power;
    let steps = (most / step).ceil().max(1.0) as usize;
    (0..=steps).map(|number| number as f64 * step).collect()
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

/// A number as it stands at an axis: no more digits than it has.
fn number(value: f64) -> String {
    if value >= 1000.0 {
        return grouped(value.round() as i64);
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// To a tenth of a unit: a difference that nobody sees makes no other picture.
fn tidy(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
