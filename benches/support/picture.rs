//! The parts that line charts and bar charts have in common.

use std::fmt::Write;
use std::path::PathBuf;

use super::Options;
use super::report::grouped;

/// The approximate width of a letter of the legend: there is no font to ask.
const LETTER: f64 = 7.0;

/// Colors that people who confuse some can tell apart (Okabe and Ito), on light and on dark.
pub const COLORS: [(&str, &str); 6] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8a3d"),
    ("#009e73", "#2fd0a2"),
    ("#a3457f", "#e79ac6"),
    ("#7a6a00", "#e6d23c"),
    ("#555555", "#bbbbbb"),
];

/// Writes a picture, and says where: below `benches/charts`, or from a quick run, whose figures say little, below `target`.
pub fn write_picture(name: &str, options: &Options, svg: &str) {
    let folder = match options.quick {
        true => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("charts"),
        false => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/charts"),
    };
    let file = folder.join(format!("{name}.svg"));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::write(&file, svg).expect("a picture can be written");
    println!("chart: {}\n", file.display());
}

/// The start of a picture with so many colors.
pub fn header(title: &str, width: f64, height: f64, colors: usize) -> String {
    let mut out = String::new();
    let mut light = String::new();
    let mut dark = String::new();
    for (number, (on_light, on_dark)) in COLORS.iter().take(colors).enumerate() {
        let _ = write!(light, ".s{number}{{stroke:{on_light};fill:{on_light}}}");
        let _ = write!(dark, ".s{number}{{stroke:{on_dark};fill:{on_dark}}}");
    }
    let title = escaped(title);
    let middle = width / 2.0;
    let _ = write!(
        &mut out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>\n\
         text{{font:13px system-ui,-apple-system,\"Segoe UI\",Helvetica,Arial,sans-serif;\
         fill:#1f2328}}\n.title{{font-size:16px;font-weight:600}}\n.back{{fill:#ffffff}}\n\
         .grid{{stroke:#d8dee4;stroke-width:1}}\npolyline.line{{fill:none;stroke-width:2.25;\
         stroke-linejoin:round}}\n{light}\n@media (prefers-color-scheme:dark){{\n\
         text{{fill:#e6edf3}}\n.back{{fill:#0d1117}}\n.grid{{stroke:#30363d}}\n{dark}\n}}\n\
         </style>\n<rect class=\"back\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"{middle}\" y=\"28\" text-anchor=\"middle\">{title}</text>\n"
    );
    out
}

/// The names of the colors, in one row; a single one needs none, its axis names it.
pub fn draw_legend(out: &mut String, picture: f64, names: &[String]) {
    if names.len() < 2 {
        return;
    }
    let width = |name: &str| 26.0 + name.chars().count() as f64 * LETTER + 18.0;
    let all: f64 = names.iter().map(|name| width(name)).sum();
    let mut x = (picture - all).max(0.0) / 2.0;
    for (number, name) in names.iter().enumerate() {
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

/// About six steps of 1, 2 or 5 times a power of ten, from 0 to what is not below `most`.
pub fn linear_marks(most: f64) -> Vec<f64> {
    let rough = (most / 6.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    let step = factor.unwrap_or(10.0) * power;
    let steps = (most / step).ceil().max(1.0) as usize;
    (0..=steps).map(|number| number as f64 * step).collect()
}

/// A number as it stands at an axis: no more digits than it has.
pub fn number(value: f64) -> String {
    if value >= 1000.0 {
        return grouped(value.round() as i64);
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// To a tenth of a unit: a difference that nobody sees makes no other picture.
pub fn tidy(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
