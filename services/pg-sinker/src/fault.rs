//! What an error of the database means: will it pass, is it the data, or must the chain look at the sink anew?

use sqlx::Error;

/// The meaning of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server or the way to it: the same transaction succeeds later.
    Passing,
    /// A value or row that the table refuses; the label of the rejection.
    Data(&'static str),
    /// Anything else, such as a table that was changed: a new generation looks at the catalog again.
    Lasting,
}

/// The meaning of an error of a statement.
pub fn of(error: &Error) -> Fault {
    match error {
        Error::Database(error) => error.code().map_or(Fault::Lasting, |code| of_code(&code)),
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed | Error::BeginFailed => Fault::Passing,
        Error::Encode(_) => Fault::Data("refused_by_the_table"),
        _ => Fault::Lasting,
    }
}

/// By SQLSTATE, see PostgreSQL's appendix A.
fn of_code(code: &str) -> Fault {
    match code {
        "23502" => return Fault::Data("missing_value"),
        // Read-only server (after a failover), lock not available, time limits of transactions.
        "25006" | "55P03" | "25P03" | "25P04" => return Fault::Passing,
        "40002" | "21000" => return Fault::Data("refused_by_the_table"),
        _ => {}
    }
    match code.get(..2) {
        Some("08" | "40" | "53" | "57" | "58") => Fault::Passing,
        Some("22") => Fault::Data("invalid_value"),
        // Constraints, views with CHECK OPTION, triggers that raise, functions that fail, a key too long for its index.
        Some("23" | "44" | "P0" | "38" | "39" | "54") => Fault::Data("refused_by_the_table"),
        _ => Fault::Lasting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_manual_says() {
        for code in ["08006", "40001", "40P01", "53100", "53300", "57P01", "57P03", "57014", "25006", "55P03", "58030"]
        {
            assert_eq!(of_code(code), Fault::Passing, "{code}");
        }
        for code in ["22P02", "22003", "22021", "22001", "22007"] {
            assert_eq!(of_code(code), Fault::Data("invalid_value"), "{code}");
        }
        assert_eq!(of_code("23502"), Fault::Data("missing_value"));
        for code in ["23505", "23514", "21000", "40002", "P0001", "54000"] {
            assert_eq!(of_code(code), Fault::Data("refused_by_the_table"), "{code}");
        }
        // A type that does not fit the statement: of no single row.
        for code in ["42804", "42846", "42P01", "42703", "42501", "0A000", "XX000", ""] {
            assert_eq!(of_code(code), Fault::Lasting, "{code}");
        }
    }

    #[test]
    fn a_lost_connection_passes() {
        assert_eq!(of(&Error::Io(std::io::Error::other("reset"))), Fault::Passing);
        assert_eq!(of(&Error::RowNotFound), Fault::Lasting);
    }
}
