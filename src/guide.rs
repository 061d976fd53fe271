//! Pages for users: options, errors, building, graphs and streams, reproducibility, memory.

/// Which option does what, and what it costs.
#[doc = include_str!("guide/options.md")]
pub mod options {}

/// Every error, what it means, and what to do.
#[doc = include_str!("guide/errors.md")]
pub mod errors {}

/// nvcc, architectures, containers, docs.rs.
#[doc = include_str!("guide/building.md")]
pub mod building {}

/// CUDA graphs, streams, threads and devices.
#[doc = include_str!("guide/graphs_and_streams.md")]
pub mod graphs_and_streams {}

/// What gives the same bits, and what does not.
#[doc = include_str!("guide/reproducibility.md")]
pub mod reproducibility {}

/// What is read and written, and what memory a call needs.
#[doc = include_str!("guide/memory.md")]
pub mod memory {}

#[cfg(test)]
mod tests {
    /// The names that a line begins with within `pub enum <name> {` of a source.
    fn variants<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
        let (_, body) = source.split_once(&format!("pub enum {name} {{\n")).unwrap();
        let (body, _) = body.split_once("\n}\n").unwrap();
        let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
        lines
            .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
            .map(|line| line.trim_end_matches([' ', '{', ',']))
            .collect()
    }

    #[test]
    fn the_page_of_errors_has_every_error() {
        let (source, page) = (include_str!("error.rs"), include_str!("guide/errors.md"));
        let (errors, obstacles) = (variants(source, "Error"), variants(source, "Obstacle"));
        assert!(errors.contains(&"NoDriver") && obstacles.contains(&"NoKernel"));
        for error in errors {
            assert!(page.contains(&format!("| `{error}` |")), "{error} is not explained");
        }
        for obstacle in obstacles {
            assert!(page.contains(&format!("| `{obstacle}` |")), "{obstacle} is not explained");
        }
    }
}
