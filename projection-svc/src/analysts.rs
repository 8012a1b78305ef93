//! What analysts read: views without texts over one generation, in a schema beside that of its rows.
//!
//! Views hold on to their tables and not to the tables' names. If a flip made them anew, it would
//! have to wait for the end of every analyst's query; therefore each generation has its own, and a
//! flip renames both schemas. `ANALYTICS.md` tells what the views are.

use crate::generation::Slot;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

/// Each executed with `search_path` set to the schema of the views and then that of the rows.
const VIEWS: [&str; 2] = [
    include_str!("../schema/analytics.sql"),
    include_str!("../schema/analytics_daily.sql"),
];

/// The live generation's views are read, and no others. Roles belong to the whole cluster; where
/// this one could not be made (migration 0001), there is nobody to admit.
const ADMIT: &str = "
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amaima_analyst') THEN
            GRANT USAGE ON SCHEMA analytics TO amaima_analyst;
            IF to_regnamespace('analytics_previous') IS NOT NULL THEN
                REVOKE ALL ON SCHEMA analytics_previous FROM amaima_analyst;
            END IF;
        END IF;
    END
    $$";

/// Makes a generation's views.
pub(crate) async fn create_views(
    connection: &mut PgConnection,
    slot: Slot,
) -> Result<(), sqlx::Error> {
    let (views, rows) = (slot.analytics(), slot.schema());
    connection
        .execute(AssertSqlSafe(format!(
            "CREATE SCHEMA IF NOT EXISTS {views};
             COMMENT ON SCHEMA {views} IS 'What analysts read: documented views without texts. \
                 Members of the role amaima_analyst see this schema and nothing else.';
             SET LOCAL search_path = {views}, {rows}"
        )))
        .await?;
    for script in VIEWS {
        connection.execute(sqlx::raw_sql(script)).await?;
    }
    connection
        .execute(AssertSqlSafe(format!(
            "DO $$
             BEGIN
                 IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'amaima_analyst') THEN
                     GRANT SELECT ON ALL TABLES IN SCHEMA {views} TO amaima_analyst;
                 END IF;
             END
             $$"
        )))
        .await?;
    if slot == Slot::Live {
        admit(connection).await?;
    }
    Ok(())
}

/// Lets analysts into the schema that is the live generation's now.
pub(crate) async fn admit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(ADMIT).await?;
    Ok(())
}
