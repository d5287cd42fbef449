//! Charts as inline SVG: axes, lines, bars and intervals. Colours are classes; the page's style gives them.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 172.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// Series have so many colours before they repeat.
pub(super) const COLOURS: usize = 8;

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Maps values to places.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    /// Values with a line and a text.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to a little above the greatest value.
    pub(super) fn linear(values: impl Iterator<Item = f64>, told: impl Fn(f64) -> String) -> Self {
        let most = values.fold(0.0, f64::max).max(1e-9);
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|step| step * 10_f64.powf(most.log10().floor() - 1.0))
            .into_iter()
            .chain([10_f64.powf(most.log10().floor())].map(|step| step * 2.5))
            .find(|step| most / step <= 6.0)
            .unwrap_or(most / 4.0);
        let count = (most / step).ceil() as usize;
        let ticks = (0..=count).map(|n| (n as f64 * step, told(n as f64 * step))).collect();
        Self { low: 0.0, high: count as f64 * step, is_log: false, ticks }
    }

    /// Logarithmic where small values would lie on the ground.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone, told: impl Fn(f64) -> String) -> Self {
        let least = values.clone().filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
        let most = values.clone().fold(0.0, f64::max);
        if most > 20.0 * least { Self::log(values, told) } else { Self::linear(values, told) }
    }

    /// Powers of ten around the values; zero and below are left out.
    pub(super) fn log(values: impl Iterator<Item = f64>, told: impl Fn(f64) -> String) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        let (first, last) =
            (low.min(high).log10().floor(), high.log10().ceil().max(low.min(high).log10().floor() + 1.0));
        let ticks = (first as i32..=last as i32).map(|n| (10_f64.powi(n), told(10_f64.powi(n)))).collect();
        Self { low: 10_f64.powf(first), high: 10_f64.powf(last), is_log: true, ticks }
    }

    pub(super) fn with_ticks(low: f64, high: f64, is_log: bool, ticks: Vec<(f64, String)>) -> Self {
        Self { low, high, is_log, ticks }
    }

    /// 0 at the low end, 1 at the high one.
    fn place(&self, value: f64) -> f64 {
        let scale = |v: f64| if self.is_log { v.max(self.low).log10() } else { v };
        let share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low));
        share.clamp(0.0, 1.0)
    }
}

pub(super) struct Chart {
    body: String,
    height: f64,
    x: Axis,
    y: Axis,
}

impl Chart {
    pub(super) fn new(height: f64, x: Axis, y: Axis, x_label: &str, y_label: &str) -> Self {
        let mut chart = Self { body: String::new(), height, x, y };
        for (value, told) in chart.y.ticks.clone() {
            let at = chart.at_y(value);
            chart.shape("grid", &format!("M{LEFT} {at:.1}H{:.1}", WIDTH - RIGHT));
            chart.text(LEFT - 8.0, at + 4.0, "end", &told);
        }
        for (value, told) in chart.x.ticks.clone() {
            let at = chart.at_x(value);
            chart.shape("grid", &format!("M{at:.1} {TOP}V{:.1}", height - BOTTOM));
            chart.text(at, height - BOTTOM + 16.0, "middle", &told);
        }
        chart.text(f64::midpoint(LEFT, WIDTH - RIGHT), height - 6.0, "middle", x_label);
        let middle = f64::midpoint(TOP, height - BOTTOM);
        let turned =
            format!("<text transform=\"translate(12 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">");
        chart.write(&format!("{turned}{}</text>", escape(y_label)));
        chart
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.place(value) * (self.height - TOP - BOTTOM)
    }

    fn write(&mut self, text: &str) {
        self.body += text;
        self.body.push('\n');
    }

    fn shape(&mut self, class: &str, path: &str) {
        self.write(&format!("<path class=\"{class}\" d=\"{path}\"/>"));
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.write(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        ));
    }

    /// A line through the points, with its name at its end.
    pub(super) fn line(&mut self, series: usize, name: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (n, (x, y)) in points.iter().enumerate() {
            let letter = if n == 0 { 'M' } else { 'L' };
            write!(path, "{letter}{:.1} {:.1}", self.at_x(*x), self.at_y(*y)).expect("a string takes all");
        }
        self.shape(&format!("line s{}", series % COLOURS), &path);
        for (x, y) in points {
            self.dot(series, *x, *y);
        }
        if let Some((x, y)) = points.last() {
            let (x, y) = (self.at_x(*x), self.at_y(*y));
            self.text(x + 6.0, y + 4.0, "start", name);
        }
    }

    /// An upright line that others are held against.
    pub(super) fn rule(&mut self, value: f64) {
        let (at, bottom) = (self.at_x(value), self.height - BOTTOM);
        self.shape("rule", &format!("M{at:.1} {TOP}V{bottom:.1}"));
    }

    pub(super) fn dot(&mut self, series: usize, x: f64, y: f64) {
        let (x, y, series) = (self.at_x(x), self.at_y(y), series % COLOURS);
        self.write(&format!("<circle class=\"dot s{series}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"));
    }

    /// A value with its interval, on a row.
    pub(super) fn interval(&mut self, series: usize, row: f64, [low, middle, high]: [f64; 3]) {
        let (from, to, y) = (self.at_x(low), self.at_x(high), self.at_y(row));
        let class = format!("line s{}", series % COLOURS);
        self.shape(&class, &format!("M{from:.1} {y:.1}H{to:.1}"));
        self.shape(&class, &format!("M{from:.1} {:.1}v10M{to:.1} {:.1}v10", y - 5.0, y - 5.0));
        let (x, series) = (self.at_x(middle), series % COLOURS);
        self.write(&format!("<circle class=\"dot s{series}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>"));
    }

    /// A band between two values, behind what is drawn after it.
    pub(super) fn band(&mut self, low: f64, high: f64) {
        let (from, to, bottom) = (self.at_x(low), self.at_x(high), self.height - BOTTOM);
        self.shape("band", &format!("M{from:.1} {TOP}H{to:.1}V{bottom:.1}H{from:.1}Z"));
    }

    /// A bar from the left on a row, with its value behind it.
    pub(super) fn bar(&mut self, series: usize, row: f64, value: f64, told: &str) {
        let (to, y) = (self.at_x(value), self.at_y(row));
        self.shape(
            &format!("bar s{}", series % COLOURS),
            &format!("M{LEFT} {:.1}H{to:.1}v16H{LEFT}Z", y - 8.0),
        );
        // Inside the bar where there is no room behind it.
        let (x, anchor, class) =
            if to > WIDTH - 110.0 { (to - 6.0, "end", "inside") } else { (to + 6.0, "start", "") };
        let (y, told) = (y + 4.0, escape(told));
        self.write(&format!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{told}</text>"
        ));
    }

    pub(super) fn finish(self, title: &str) -> String {
        let height = self.height;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_all_values() {
        for most in [0.3, 1.0, 7.0, 33_717.0, 2e9] {
            let axis = Axis::linear([most].into_iter(), |v| v.to_string());
            assert!(axis.high >= most && axis.high <= 2.5 * most, "{most}: {}", axis.high);
            assert!((2..=11).contains(&axis.ticks.len()), "{most}: {}", axis.ticks.len());
        }
        let axis = Axis::log([20.0, 5000.0].into_iter(), |v| v.to_string());
        assert_eq!((axis.low, axis.high, axis.ticks.len()), (10.0, 10_000.0, 4));
        assert!((axis.place(1000.0) - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn texts_cannot_become_tags() {
        assert_eq!(escape("<a b=\"c\"> & d"), "&lt;a b=&quot;c&quot;&gt; &amp; d");
    }
}
