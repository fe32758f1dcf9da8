//! The picture of a soak: lines over minutes, readable on light and on dark pages.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const PANEL: f64 = 230.0;
/// Around a panel: left (figures), right (names), top (title), bottom (minutes).
const LEFT: f64 = 48.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 34.0;
/// Points drawn of a line at most.
const POINTS: usize = 400;

pub struct Series {
    pub name: String,
    /// Class of its colour: `a` or `b`.
    pub class: &'static str,
    /// Minutes and MB.
    pub points: Vec<(f64, f64)>,
    /// From and to, minutes and MB: the fitted line.
    pub fit: Option<[(f64, f64); 2]>,
}

pub struct Panel {
    pub title: String,
    pub series: Vec<Series>,
}

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 } \
.grid { stroke: #ddd } .axis { stroke: #888 } .warm { fill: #8882 } \
.a { stroke: #0b63b0 } .b { stroke: #b0500b } text.a { fill: #0b63b0; stroke: none } text.b { fill: #b0500b; stroke: none } \
path { fill: none; stroke-width: 1.5 } .fit { stroke-width: 1; stroke-dasharray: 6 4 } \
@media (prefers-color-scheme: dark) { text { fill: #ddd } .grid { stroke: #444 } .axis { stroke: #999 } \
.a { stroke: #6cb4f5 } .b { stroke: #f5a55c } text.a { fill: #6cb4f5 } text.b { fill: #f5a55c } }";

/// `warm_up` in minutes is shaded.
pub fn draw(panels: &[Panel], warm_up: f64) -> String {
    let height = panels.len() as f64 * (TOP + PANEL + BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Memory of edgecore and cloudcore over the minutes of a soak\">\n<style>{STYLE}</style>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        draw_panel(&mut out, panel, number as f64 * (TOP + PANEL + BOTTOM) + TOP, warm_up);
    }
    out.push_str("</svg>\n");
    out
}

fn draw_panel(out: &mut String, panel: &Panel, top: f64, warm_up: f64) {
    let all = || panel.series.iter().flat_map(|series| &series.points);
    let end = all().map(|point| point.0).fold(1.0, f64::max);
    let highest = all().map(|point| point.1).fold(1.0, f64::max);
    let step = step(highest);
    let ceiling = (highest / step).ceil() * step;
    let wide = WIDTH - LEFT - RIGHT;
    let x = |minutes: f64| LEFT + minutes / end * wide;
    let y = |mb: f64| top + PANEL - mb / ceiling * PANEL;
    let mut put = |line: String| writeln!(out, "{line}").unwrap();
    put(format!("<text class=\"title\" x=\"{LEFT}\" y=\"{}\">{}</text>", top - 14.0, panel.title));
    put(format!(
        "<rect class=\"warm\" x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\"/>",
        x(warm_up.min(end)) - LEFT
    ));
    let mut level = 0.0;
    while level <= ceiling + step / 2.0 {
        let class = if level == 0.0 { "axis" } else { "grid" };
        let at = y(level);
        put(format!(
            "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            LEFT + wide
        ));
        put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{level}</text>", LEFT - 6.0, at + 4.0));
        level += step;
    }
    let tick = if end > 30.0 { 10.0 } else { (end / 6.0).ceil() };
    let mut minute = 0.0;
    while minute <= end {
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{minute} min</text>",
            x(minute),
            top + PANEL + 18.0
        ));
        minute += tick;
    }
    for series in &panel.series {
        let thin = series.points.len().div_ceil(POINTS).max(1);
        let path: Vec<String> = series
            .points
            .iter()
            .step_by(thin)
            .map(|(minutes, mb)| format!("{:.1} {:.1}", x(*minutes), y(*mb)))
            .collect();
        put(format!("<path class=\"{}\" d=\"M{}\"/>", series.class, path.join("L")));
        if let Some([from, to]) = series.fit {
            put(format!(
                "<path class=\"fit {}\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>",
                series.class,
                x(from.0),
                y(from.1),
                x(to.0),
                y(to.1)
            ));
        }
        let last = series.points.last().map_or(0.0, |point| point.1);
        put(format!(
            "<text class=\"{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            series.class,
            LEFT + wide + 8.0,
            y(last) + 4.0,
            series.name
        ));
    }
}

/// A round distance between levels, so that there are four to eight.
fn step(highest: f64) -> f64 {
    let mut step = 1.0;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if highest / step <= 8.0 {
            break;
        }
        step *= factor;
    }
    step
}
