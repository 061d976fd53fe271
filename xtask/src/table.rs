//! Aligned text tables.

use comfy_table::{CellAlignment, Table, presets};

/// A table with these rows: its first `labels` columns to the left, the numbers to the right.
pub fn table<const N: usize>(header: [&str; N], labels: usize, rows: Vec<[String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(labels) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
