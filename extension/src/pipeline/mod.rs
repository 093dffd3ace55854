//! Tables that keep themselves embedded: `distilface_vectorize` and what belongs to it.
//!
//! Most of it is SQL, see `sql/pipeline.sql`: what runs at a table is plain statements in short
//! transactions. Here is what SQL cannot do: the row trigger, and work as the table's owner. The
//! background worker, `pg/worker.rs`, only repeats `distilface.attempt`.
//!
//! Who runs what: procedures are the caller's and do nothing by themselves; each step of the work
//! goes through [`distilface_as_owner`], which asks for the owner's privileges and then acts as the
//! owner, so that a table's own triggers and expressions never run with more rights than the owner
//! has; so do the counts of `distilface.progress`. The table of pipelines is written through
//! [`distilface_as_keeper`] alone, so that its rows say what the extension said. The trigger embeds as
//! the writing user and reaches the queue as the owner.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};

use crate::embed::session::{self, Strictness};
use crate::model::registry;
use crate::pg::acting::{act_as, with_plain_output};
use crate::pg::embedding::Embedding;
use crate::pg::jsonb::Jsonb;
use crate::pg::owner;
use crate::pg::recovery;
use crate::pg::report::Report;
use crate::pg::roles;
use crate::pg::statement;
use crate::pg::table;
use crate::pg::trigger::{Row, RowTrigger, Timing};
use crate::pg::worker;
use distilface_core::encoder::InputKind;
use pgrx::spi::OwnedPreparedStatement;

/// What of the pipelines' SQL may run as a table's owner.
const OWNER_FUNCTIONS: [&str; 7] = [
    "owner_install",
    "owner_step",
    "owner_uninstall",
    "owner_shadow",
    "owner_twins",
    "owner_swap",
    "owner_retry",
];
/// The same of what only reads, on a standby too.
const OWNER_READS: [&str; 4] = ["owner_count", "owner_failing", "owner_judged", "owner_found"];
/// What writes the table of pipelines, with the rights of its owner.
const KEEPER_FUNCTIONS: [&str; 4] =
    ["keeper_add", "keeper_mark", "keeper_replace", "keeper_forget"];

const ENQUEUE: &str =
    "INSERT INTO distilface.queue (pipeline, key) VALUES ($1, $2::pg_catalog.text)";
const REFRESH: &str = "SELECT distilface.refresh_now($1, $2::pg_catalog.text)";
const DROP_CHUNKS: &str = "SELECT distilface.drop_chunks($1, $2::pg_catalog.text)";

thread_local! {
    static STATEMENTS: RefCell<[Option<OwnedPreparedStatement>; 3]> =
        const { RefCell::new([None, None, None]) };
    /// The last transaction that changed a key of a partitioned table with chunks. A row that such an
    /// UPDATE moves to another partition is deleted here and inserted there: its chunks must be gone before
    /// the new ones come. Those of a row that is just deleted are the foreign key's to delete.
    static MOVES: Cell<u64> = const { Cell::new(0) };
}

/// Calls `distilface.NAME(relation, args)` as the relation's owner.
///
/// # Errors
/// Raises 42501 where the caller lacks the owner's privileges, 42P01 for no relation, and 25006 on a
/// standby unless the function only reads.
#[pg_extern(sql = false)]
fn distilface_as_owner(relation: pg_sys::Oid, name: &str, args: Jsonb) -> Option<Jsonb> {
    let owner = owner_that_the_user_is(relation);
    if OWNER_READS.contains(&name) {
        return act_as(owner, || {
            read(&statement_of(name, &OWNER_READS), &of_table(relation, args))
        });
    }
    recovery::refuse("a change of pipelines");
    let statement = statement_of(name, &OWNER_FUNCTIONS);
    act_as(owner, || write(&statement, &of_table(relation, args)))
}

/// Calls `distilface.NAME(relation, args)` as the owner of the table of pipelines.
///
/// # Errors
/// As [`distilface_as_owner`].
#[pg_extern(sql = false)]
fn distilface_as_keeper(relation: pg_sys::Oid, name: &str, args: Jsonb) -> Option<Jsonb> {
    owner_that_the_user_is(relation);
    recovery::refuse("a change of pipelines");
    let statement = statement_of(name, &KEEPER_FUNCTIONS);
    let pipelines = table::oid_of(c"pipelines")?;
    owner::as_owner(table::owner_of(pipelines), || write(&statement, &of_table(relation, args)))
}

fn owner_that_the_user_is(relation: pg_sys::Oid) -> pg_sys::Oid {
    let Some(owner) = owner_of(relation) else {
        Report::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, "the table does not exist").raise()
    };
    if !roles::has_rights_of(roles::current(), owner) {
        Report::new(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {}", name_of(relation)),
        )
        .raise()
    }
    owner
}

fn statement_of(name: &str, known: &[&str]) -> String {
    let Some(name) = known.iter().find(|known| **known == name) else {
        Report::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("\"{name}\" is nothing that distilface does to a table"),
        )
        .raise()
    };
    format!("SELECT distilface.{name}($1, $2)")
}

fn of_table(relation: pg_sys::Oid, args: Jsonb) -> [DatumWithOid<'static>; 2] {
    [DatumWithOid::from(relation), DatumWithOid::from(args)]
}

/// # Errors
/// Raises 25001 where the statement under way cannot commit as it goes, and 25006 on a standby.
#[pg_extern(sql = false)]
fn distilface_require_no_block(procedure: &str) {
    recovery::refuse(&format!("CALL {procedure}"));
    if statement::in_block() {
        Report::new(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("CALL {procedure} cannot run inside a transaction block"),
        )
        .detail("It commits as it goes.")
        .hint("Send it alone: outside of BEGIN and COMMIT, and not in one string with other statements.")
        .raise()
    }
}

/// Asks for a background worker in this database once the transaction has committed.
#[pg_extern(sql = false)]
fn distilface_wake_worker() {
    worker::wake_at_commit();
}

/// Whether the library was preloaded, so that a background worker takes what waits.
#[pg_extern(sql = false)]
fn distilface_has_worker() -> bool {
    worker::is_running()
}

/// The trigger of every form; its arguments are the pipeline, what to do, and the model.
#[pg_extern(sql = false)]
fn distilface_pipeline_trigger(fcinfo: pg_sys::FunctionCallInfo) -> Row {
    // SAFETY: the call runs.
    let trigger = unsafe { RowTrigger::from_call(fcinfo) };
    // Without its companion the pipeline's columns are gone: the row is the user's own affair again.
    let Some((&source, others)) = trigger.columns().split_first() else {
        return trigger.row();
    };
    match (trigger.argument(1), trigger.timing()) {
        (Some("embed"), Timing::Before) => match others.first() {
            Some(&target) => embed(&trigger, source, target),
            None => trigger.row(),
        },
        (Some("enqueue"), Timing::After) => {
            let Some((&target, key)) = others.split_first() else { return trigger.row() };
            if is_due(&trigger, source, key) || lost_vector(&trigger, source, target) {
                hand_over(&trigger, key, 0);
            }
            trigger.row()
        }
        (Some("enqueue_chunks"), Timing::After) => {
            if is_due(&trigger, source, others) {
                hand_over(&trigger, others, 0);
            }
            trigger.row()
        }
        (Some("chunk"), Timing::After) => {
            if is_due(&trigger, source, others) {
                hand_over(&trigger, others, 1);
            }
            trigger.row()
        }
        (Some("move"), Timing::Before) => {
            if !others.iter().all(|&column| trigger.unchanged(column)) {
                MOVES.set(statement::transaction());
            }
            trigger.row()
        }
        (Some("chunk"), Timing::AfterDelete) => {
            if MOVES.get() == statement::transaction() {
                hand_over(&trigger, others, 2);
            }
            trigger.row()
        }
        (what, timing) => Report::new(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            format!("distilface.pipeline_trigger() cannot do {what:?} in a trigger {timing:?}"),
        )
        .hint("distilface_vectorize makes the triggers of a table.")
        .raise(),
    }
}

/// Puts the new text's vector into the row, or the old one's where the update takes it away. A row that
/// had none is the fill's: rows by the thousand, in batches.
fn embed(trigger: &RowTrigger, source: i16, target: i16) -> Row {
    if trigger.unchanged(source) && !trigger.emptied(target) {
        return trigger.row();
    }
    // The owner's right to the model is enough for whoever may write the table.
    let name = trigger.argument(2).unwrap_or_default();
    let model = act_as(trigger.owner(), || registry::by_name(name));
    let vector = trigger.text(source).and_then(|text| {
        session::embed_one(model, InputKind::Passage, &text, Strictness::Pinned)
            .map(|vector| Embedding::new(&vector).into_datum())
    });
    trigger.row_with(target, vector)
}

fn is_due(trigger: &RowTrigger, source: i16, key: &[i16]) -> bool {
    !(trigger.unchanged(source) && key.iter().all(|&column| trigger.unchanged(column)))
}

/// Whether the update takes the vector from a text that has one. White space is told from afar; other
/// texts without a vector wait in the queue once for nothing.
fn lost_vector(trigger: &RowTrigger, source: i16, target: i16) -> bool {
    trigger.emptied(target) && trigger.text(source).is_some_and(|text| !text.trim().is_empty())
}

/// Hands the row's key to a statement that runs as the table's owner: into the queue, to be chunked at
/// once, or to lose its chunks.
fn hand_over(trigger: &RowTrigger, key: &[i16], which: usize) {
    let Some(pipeline) = trigger.argument(0).and_then(|argument| argument.parse::<i32>().ok())
    else {
        return;
    };
    let plain =
        [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::TEXTOID, pg_sys::UUIDOID];
    let values = if key.iter().all(|&column| plain.contains(&trigger.type_of(column))) {
        trigger.written(key)
    } else {
        // What this session's settings say about dates and fractions must not reach the queue.
        with_plain_output(|| trigger.written(key))
    };
    act_as(trigger.owner(), || {
        STATEMENTS.with_borrow_mut(|statements| {
            let slot = &mut statements[which];
            let text = [ENQUEUE, REFRESH, DROP_CHUNKS][which];
            Spi::connect_mut(|client| {
                let statement = match slot {
                    Some(statement) => statement,
                    None => {
                        let types = [
                            PgOid::BuiltIn(PgBuiltInOids::INT4OID),
                            PgOid::BuiltIn(PgBuiltInOids::TEXTARRAYOID),
                        ];
                        let prepared = client
                            .prepare_mut(text, &types)
                            .unwrap_or_else(|error| fail(text, &error));
                        slot.insert(prepared.keep())
                    }
                };
                let args = [DatumWithOid::from(pipeline), DatumWithOid::from(values)];
                if let Err(error) = client.update(&*statement, None, &args) {
                    fail(text, &error)
                }
            });
        });
    });
    if which == 0 {
        worker::wake_at_commit();
    }
}

fn owner_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let statement = "SELECT (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1)";
    read(statement, &[DatumWithOid::from(relation)])
}

fn name_of(relation: pg_sys::Oid) -> String {
    let statement =
        "SELECT pg_catalog.convert_to($1::pg_catalog.regclass::pg_catalog.text, 'UTF8')";
    let name: Option<Vec<u8>> = read(statement, &[DatumWithOid::from(relation)]);
    String::from_utf8_lossy(&name.unwrap_or_default()).into_owned()
}

/// A statement's only value; it takes no transaction's number, which a standby does not give.
fn read<T: FromDatum + IntoDatum>(statement: &str, args: &[DatumWithOid]) -> Option<T> {
    Spi::connect(|client| client.select(statement, Some(1), args)?.first().get_one())
        .unwrap_or_else(|error| fail(statement, &error))
}

fn write(statement: &str, args: &[DatumWithOid]) -> Option<Jsonb> {
    Spi::get_one_with_args(statement, args).unwrap_or_else(|error| fail(statement, &error))
}

fn fail(statement: &str, error: &pgrx::spi::Error) -> ! {
    Report::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "a statement of a pipeline failed")
        .detail(format!("{error} in: {statement}"))
        .raise()
}
