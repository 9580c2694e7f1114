//! Pieces of markup. All text passes through [`escaped`].

use crate::{
    schema::Context,
    table::{Column, Table},
    terminal::harmless,
};

/// Text that is shown and not obeyed, in elements and in attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in harmless(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// An element that holds text; line ends are kept.
pub(super) fn element(name: &str, text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(escaped).collect();
    format!("<{name}>{}</{name}>\n", lines.join("\n"))
}

/// Content that is shown when it is asked for, and printed always.
pub(super) fn folded(title: &str, content: &str) -> String {
    format!(
        "<details><summary>{}</summary>{content}</details>\n",
        escaped(title)
    )
}

/// A table with its notes.
pub(super) fn table(table: &Table) -> String {
    let mut out = String::from("<div class=\"wide\" tabindex=\"0\"><table>\n<thead><tr>");
    for column in table.columns() {
        out.push_str(&cell("th scope=\"col\"", "th", column, column.header()));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in table.rows() {
        out.push_str("<tr>");
        for (column, text) in table.columns().iter().zip(row) {
            out.push_str(&cell("td", "td", column, text));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    for note in table.notes() {
        out.push_str(&format!("<p class=\"note\">{}</p>\n", escaped(note)));
    }
    out
}

fn cell(open: &str, close: &str, column: &Column, text: &str) -> String {
    let class = if column.is_number() {
        " class=\"n\""
    } else {
        ""
    };
    format!("<{open}{class}>{}</{close}>", escaped(text))
}

/// All that a context says, as it stands in the file.
pub(super) fn host(context: &Context) -> String {
    // A context that was read becomes JSON again.
    let json = serde_json::to_string_pretty(&context.host).unwrap_or_default();
    element("pre", &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_is_shown_and_not_obeyed() {
        assert_eq!(
            escaped("<img src=x onerror='a(\"b\")'>&"),
            "&lt;img src=x onerror=&#39;a(&quot;b&quot;)&#39;&gt;&amp;"
        );
        let mut rows = Table::new("t", vec![Column::text("<b>")]);
        rows.row(vec!["</td><script>".into()]);
        let shown = table(&rows);
        assert!(
            !shown.contains("<b>") && !shown.contains("<script>"),
            "{shown}"
        );
    }
}
