//! The dashboard for Grafana 10 or later, kept as a table of its panels: a fifth of the JSON that is printed.

use crate::embedded::{EmbeddedText, embedded_text};

/// Blocks with an empty line between them: `row TITLE`, or a panel, `KIND UNIT TITLE: DESCRIPTION`, and a line
/// `- LEGEND: EXPRESSION` for each of its queries. Nothing in it needs an escape in JSON.
///
/// In an expression, `{}` selects the instances shown, and `[]` spans the time that Grafana chooses. A legend without a label ends
/// with the instance.
static TABLE: EmbeddedText = embedded_text!("dashboard.txt");

/// The JSON up to the panels. Grafana asks for the data source when the dashboard is imported.
const HEAD: &str = r#"{"title":"oneloop","uid":"oneloop","description":"Real-time push on one event loop.","tags":["oneloop"],
"editable":true,"graphTooltip":1,"schemaVersion":39,"version":1,"refresh":"10s","timezone":"browser",
"time":{"from":"now-1h","to":"now"},"timepicker":{},"annotations":{"list":[]},"links":[],"templating":{"list":[
{"name":"datasource","label":"Data source","type":"datasource","query":"prometheus","refresh":1,"hide":0,
"multi":false,"includeAll":false,"options":[],"current":{}},
{"name":"instance","label":"Instance","type":"query","datasource":{"type":"prometheus","uid":"${datasource}"},
"definition":"label_values(oneloop_build_info, instance)",
"query":{"query":"label_values(oneloop_build_info, instance)","refId":"instance"},"refresh":2,"sort":1,"hide":0,
"multi":true,"includeAll":true,"options":[],"current":{}}]},
"panels":["#;

const ROW: &str = r#"{"id":<id>,"type":"row","title":"<title>","collapsed":false,
"gridPos":{"h":<h>,"w":<w>,"x":<x>,"y":<y>},"panels":[]}"#;

const PANEL: &str = r#"{"id":<id>,"type":"<type>","title":"<title>","description":"<description>",
"datasource":{"type":"prometheus","uid":"${datasource}"},"gridPos":{"h":<h>,"w":<w>,"x":<x>,"y":<y>},
"fieldConfig":{"defaults":{"unit":"<unit>"<look>},"overrides":[]},"targets":[<targets>],"options":<options>}"#;

const QUERY: &str = r#"{"refId":"<letter>","expr":"<expression>","legendFormat":"<legend>",
"datasource":{"type":"prometheus","uid":"${datasource}"}}"#;

/// The options of a panel with one number, and of one with lines over time.
const NUMBER: &str = r#"{"reduceOptions":{"calcs":["lastNotNull"],"fields":"","values":false},"colorMode":"value",
"graphMode":"area","justifyMode":"auto","orientation":"auto","textMode":"auto"}"#;
const LINES: &str = r#"{"legend":{"displayMode":"list","placement":"bottom","showLegend":true},
"tooltip":{"mode":"multi","sort":"desc"}}"#;

/// The field options that `state`, `lines` and `stack` add.
const UP_OR_DOWN: &str = r#","mappings":[{"type":"value","options":{"0":{"text":"down","color":"red"},
"1":{"text":"up","color":"green"}}}]"#;
const THIN: &str = r#","min":0,"custom":{"fillOpacity":10,"showPoints":"never","lineWidth":1}"#;
const STACKED: &str = r#","min":0,"custom":{"fillOpacity":30,"showPoints":"never","lineWidth":1,
"stacking":{"mode":"normal","group":"A"}}"#;

/// The columns of Grafana's grid.
const GRID: u32 = 24;

/// Returns the JSON that `oneloop dashboard` prints.
pub fn dashboard() -> String {
    let mut board = String::from(HEAD);
    let (mut id, mut x, mut y, mut line) = (0, 0, 0, 0);
    let table = TABLE.inflate();
    let mut rest = table.as_str();
    while !rest.is_empty() {
        let (block, more) = cut(rest, "\n\n");
        let (head, queries) = cut(block, "\n");
        let (kind, head) = cut(head, " ");
        rest = more;
        id += 1;
        let (width, height) = match kind {
            "row" => (GRID, 1),
            "number" | "state" => (4, 4),
            _ => (8, 8),
        };
        if x + width > GRID {
            (x, y) = (0, y + line);
        }
        let mut text = match kind {
            "row" => fill(ROW, &[("<title>", head)]),
            _ => panel(kind, head, queries),
        };
        for (hole, number) in
            [("<id>", id), ("<h>", height), ("<w>", width), ("<x>", x), ("<y>", y)]
        {
            text = fill(&text, &[(hole, &number.to_string())]);
        }
        board += if id > 1 { ",\n" } else { "\n" };
        board += &text;
        (x, line) = (x + width, height);
    }
    board + "\n]}"
}

/// A panel without its id and position.
fn panel(kind: &str, head: &str, mut queries: &str) -> String {
    let (kind, look, options) = match kind {
        "number" => ("stat", "", NUMBER),
        "state" => ("stat", UP_OR_DOWN, NUMBER),
        "lines" => ("timeseries", THIN, LINES),
        _ => ("timeseries", STACKED, LINES),
    };
    let (unit, head) = cut(head, " ");
    let (title, description) = cut(head, ": ");
    let (mut targets, mut letter) = (String::new(), b'A');
    while !queries.is_empty() {
        let (line, more) = cut(queries, "\n");
        targets += if letter > b'A' { "," } else { "" };
        targets += &query(line, char::from(letter));
        (queries, letter) = (more, letter + 1);
    }
    let holes = [
        ("<type>", kind),
        ("<title>", title),
        ("<description>", description),
        ("<unit>", unit),
        ("<look>", look),
        ("<targets>", &targets),
        ("<options>", options),
    ];
    fill(PANEL, &holes)
}

/// One query of a panel, with its letter.
fn query(line: &str, letter: char) -> String {
    let (legend, expression) = cut(&line[2..], ": ");
    let instance = if legend.contains('{') { "" } else { " {{instance}}" };
    let spans = [("[]", "[$__rate_interval]"), ("{}", r#"{instance=~\"$instance\"}"#)];
    let expression = fill(expression, &spans);
    let (letter, legend) = (letter.to_string(), [legend, instance].concat());
    fill(QUERY, &[("<letter>", &letter), ("<expression>", &expression), ("<legend>", &legend)])
}

/// Fills the holes of a template.
fn fill(template: &str, holes: &[(&str, &str)]) -> String {
    holes.iter().fold(template.to_owned(), |text, (hole, filling)| text.replace(hole, filling))
}

/// Splits the table at the first separator; the rest is empty after the last piece.
fn cut<'a>(text: &'a str, separator: &str) -> (&'a str, &'a str) {
    text.split_once(separator).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_needs_no_escape() {
        assert!(!TABLE.inflate().contains(['"', '\\', '<', '>', '\t']));
        for block in TABLE.inflate().split("\n\n") {
            let (head, queries) = cut(block, "\n");
            let (kind, head) = cut(head, " ");
            assert!(["row", "number", "state", "lines", "stack"].contains(&kind), "{block}");
            assert_eq!(kind == "row", queries.is_empty(), "{block}");
            assert!(kind == "row" || head.contains(": ") && head.ends_with('.'), "{block}");
            for query in queries.lines() {
                assert!(query.starts_with("- ") && query[2..].contains(": "), "{query}");
                assert!(query.contains("{}"), "it looks at instances that are not shown: {query}");
            }
        }
    }

    #[test]
    fn no_hole_stays_open() {
        let text = dashboard();
        assert!(!text.contains(['<', '>']) && !text.contains("{}["), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert_eq!(
            text.matches("\"type\":\"row\"").count(),
            TABLE.inflate().matches("row ").count()
        );
    }
}
