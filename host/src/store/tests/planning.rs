//! The query plans of the writer's statements. A statement that scans a whole table would delay every caller as soon
//! as there is a backlog, and no other test would notice.

use sqlx::Row as _;

use super::super::sqlite::{BatchStatement, open_writer};
use super::*;
use crate::store::tasks::{
    accept, approvals, chunks, claim, deliveries, ending, finish, lease, post_run,
};

fn lengths(statement: &'static BatchStatement) -> impl Iterator<Item = &'static str> {
    [1, 2, 64].into_iter().map(|rows| statement.parts(&vec![(); rows]).next().unwrap().0)
}

#[tokio::test]
async fn no_statement_of_the_writer_reads_a_whole_table() {
    let fixture = Fixture::new().await;
    let mut db = open_writer(&fixture.path()).await.unwrap();
    let statements = lengths(&accept::KEY_OWNERS)
        .chain(claim::CLAIM.statements().flat_map(lengths))
        .chain(finish::END.statements().flat_map(lengths))
        .chain(lengths(&claim::CLAIMED))
        .chain(lengths(&lease::LEASES))
        .chain(lengths(&deliveries::TAKE))
        .chain([
            claim::TENANTS_AFTER,
            claim::READY_OF_TENANT,
            lease::RENEW_OWNER,
            lease::LEASE_OF_TASK,
            lease::DUE,
            ending::OPEN,
            post_run::ADD,
            ending::FINAL_BY_OWNER,
            deliveries::ANY_DUE,
            deliveries::TENANTS_AFTER,
            deliveries::DUE_OF_TENANT,
            chunks::NEXT_NUMBER,
            chunks::CLAIM,
            chunks::UNCLAIM,
            chunks::DELETE,
            approvals::DECIDE,
            approvals::EXPIRE,
            approvals::WITHDRAW,
            approvals::ANY_PENDING,
            approvals::RESUME,
        ])
        .chain(ending::DELETE)
        .chain(ending::DELETE_STATE);
    for statement in statements {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan = sqlx::query(explain).fetch_all(&mut db).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let table = |step: &&String| {
            let scanned = step.strip_prefix("SCAN ").map(|what| what.split(' ').next().unwrap());
            matches!(
                scanned,
                Some(
                    "tasks"
                        | "t"
                        | "bodies"
                        | "b"
                        | "ready"
                        | "r"
                        | "later"
                        | "idempotency"
                        | "k"
                        | "steps"
                        | "deliveries"
                        | "d"
                        | "result_rests"
                        | "x"
                        | "chunks"
                        | "chunked_texts"
                        | "approvals"
                        | "sealed_tokens"
                        | "c"
                )
            )
        };
        assert_eq!(steps.iter().find(table), None, "{statement}: {steps:#?}");
    }
}
