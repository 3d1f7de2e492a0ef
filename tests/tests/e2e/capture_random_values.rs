//! Random rows of random types, changed at random while they are copied and streamed.

use crate::database::run;
use crate::judged_table::JudgedTable;
use crate::random::{self, Random};
use crate::random_values::{COLUMNS, KEYS, RandomType};
use crate::stack::{CDC_INGEST, Stack};
use crate::typed_values::TYPES;

const TABLES: usize = 6;
const FIRST_ROWS: usize = 150;
const TRANSACTIONS: usize = 250;

/// A table of random columns. The first ones are its key.
struct RandomTable {
    name: String,
    types: Vec<&'static RandomType>,
    key_columns: usize,
}

impl RandomTable {
    fn new(random: &mut Random, place: usize) -> Self {
        let key_columns = 1 + random.below(2);
        let mut types: Vec<&RandomType> = (0..key_columns).map(|_| &KEYS[random.below(KEYS.len())]).collect();
        types.extend((0..1 + random.below(10)).map(|_| &COLUMNS[random.below(COLUMNS.len())]));
        RandomTable { name: format!("business.random_{place}"), types, key_columns }
    }

    fn create(&self, random: &mut Random) -> String {
        let columns: Vec<String> =
            self.types.iter().enumerate().map(|(at, of)| format!("c{at} {}", of.sql_type)).collect();
        let (name, columns, key) = (&self.name, columns.join(", "), self.key());
        let identity = random.pick(&["DEFAULT", "FULL"]);
        format!("CREATE TABLE {name} ({columns}, PRIMARY KEY ({key})); ALTER TABLE {name} REPLICA IDENTITY {identity}")
    }

    fn key(&self) -> String {
        (0..self.key_columns).map(|at| format!("c{at}")).collect::<Vec<_>>().join(", ")
    }

    fn value(&self, random: &mut Random, at: usize) -> String {
        let value =
            if at >= self.key_columns && random.one_in(6) { "NULL".to_owned() } else { (self.types[at].value)(random) };
        format!("({value})::{}", self.types[at].sql_type)
    }

    fn insert(&self, random: &mut Random) -> String {
        let values: Vec<String> = (0..self.types.len()).map(|at| self.value(random, at)).collect();
        format!("INSERT INTO {} VALUES ({}) ON CONFLICT DO NOTHING", self.name, values.join(", "))
    }

    /// Some row, the same one in each run with the same rows.
    fn row(&self, random: &mut Random) -> String {
        let key = self.key();
        format!("ctid = (SELECT ctid FROM {} ORDER BY {key} LIMIT 1 OFFSET {})", self.name, random.below(FIRST_ROWS))
    }

    /// Another value in some of the columns.
    fn update(&self, random: &mut Random) -> String {
        let first = random.below(self.types.len() - self.key_columns) + self.key_columns;
        let others = (self.key_columns..self.types.len()).filter(|at| *at == first || random.one_in(4));
        let columns: Vec<usize> = others.collect();
        let set: Vec<String> = columns.into_iter().map(|at| format!("c{at} = {}", self.value(random, at))).collect();
        format!("UPDATE {} SET {} WHERE {}", self.name, set.join(", "), self.row(random))
    }

    /// Another key, where it is free.
    fn move_row(&self, random: &mut Random) -> String {
        let value = self.value(random, 0);
        let name = &self.name;
        format!(
            "UPDATE {name} SET c0 = {value} WHERE {} AND NOT EXISTS (SELECT FROM {name} other WHERE other.c0 = {value})",
            self.row(random)
        )
    }

    fn change(&self, random: &mut Random) -> String {
        match random.below(10) {
            0..3 => self.insert(random),
            3..7 => self.update(random),
            7 => self.move_row(random),
            8 if random.one_in(15) => format!("TRUNCATE {}", self.name),
            _ => format!("DELETE FROM {} WHERE {}", self.name, self.row(random)),
        }
    }
}

/// Some changes, a part of which may be taken back.
fn transaction(tables: &[RandomTable], random: &mut Random) -> String {
    let mut statements = vec!["BEGIN".to_owned()];
    for _ in 0..1 + random.below(6) {
        let (change, is_taken_back) = (tables[random.below(tables.len())].change(random), random.one_in(10));
        match is_taken_back {
            true => statements.extend(["SAVEPOINT s".to_owned(), change, "ROLLBACK TO SAVEPOINT s".to_owned()]),
            false => statements.push(change),
        }
    }
    statements.push(if random.one_in(12) { "ROLLBACK" } else { "COMMIT" }.to_owned());
    statements.join("; ")
}

#[tokio::test]
async fn random_rows_that_change_while_they_are_copied_are_in_the_topics() {
    let mut random = random::of_this_run();
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    run(&mut source, TYPES).await;
    let tables: Vec<RandomTable> = (0..TABLES).map(|place| RandomTable::new(&mut random, place)).collect();
    let mut judged = Vec::new();
    for (place, table) in tables.iter().enumerate() {
        run(&mut source, &table.create(&mut random)).await;
        let rows: Vec<String> = (0..FIRST_ROWS).map(|_| table.insert(&mut random)).collect();
        run(&mut source, &rows.join("; ")).await;
        judged.push(JudgedTable::capture(&mut stack, &format!("random_{place}"), &table.name).await);
    }
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 5);
    stack.start(CDC_INGEST);
    for _ in 0..TRANSACTIONS {
        run(&mut source, &transaction(&tables, &mut random)).await;
    }
    // The topics are there, and the changes from here on come by the stream alone.
    stack.ready().await;
    for _ in 0..TRANSACTIONS {
        run(&mut source, &transaction(&tables, &mut random)).await;
    }
    for table in &judged {
        table.until_topic_is_the_table(&stack).await;
        table.history(&stack).assert_nothing_twice();
    }
}
