//! Budgets: what a run, an agent and a tenant may spend on models. What a turn may take is reserved before it begins, so
//! that many runs at a time do not spend together what each of them alone would have left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::RunError;
use super::model::{Model, Received, Turn};
use crate::clock::{Clock, Day};
use crate::ids::{AgentId, TenantId};
use crate::settings::AgentSettings;
use crate::store::{Spent, Store, StoreError};
use crate::tenants::Agent;
use crate::trace::usage::{Spending, Usage};

/// How long a run waits for the turns of others before it looks again.
const RECHECK_PAUSE: Duration = Duration::from_secs(1);

/// How long a run waits for the turns of others in all. It has a place among the tenant's runs meanwhile.
const WAIT_TIME_MAX: Duration = Duration::from_secs(30);

/// The budgets of all runs of this process.
#[derive(Debug, Clone)]
pub struct Budgets {
    store: Store,
    clock: Clock,
    tenants: Arc<Mutex<HashMap<TenantId, Arc<TenantReservations>>>>,
}

/// What the turns of a tenant that are under way may spend.
#[derive(Debug, Default)]
struct TenantReservations {
    /// Held while a turn is admitted: no other may take what it has found to be left.
    admission: tokio::sync::Mutex<()>,
    by_account: Mutex<HashMap<Account, Spent>>,
    /// Notified when a reservation has ended.
    ended: Notify,
}

/// Whose budget of which day. Without an agent, it is the tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Account {
    agent: Option<AgentId>,
    day: Day,
}

/// A maximum in tokens and in money.
#[derive(Debug, Clone, Copy)]
struct Limit {
    tokens: u64,
    cost_micros: u64,
}

/// What a budget limits, for errors.
#[derive(Debug, Clone, Copy)]
enum Period {
    Run,
    AgentDay,
    TenantDay,
}

impl Limit {
    /// The smaller of what an agent sets and what the settings set, where 0 is no limit.
    fn of(tokens: [Option<u64>; 2], cost_micros: [Option<u64>; 2]) -> Self {
        let least = |limits: [Option<u64>; 2]| limits.into_iter().flatten().min();
        Self {
            tokens: least(tokens).unwrap_or(u64::MAX),
            cost_micros: least(cost_micros).unwrap_or(u64::MAX),
        }
    }

    fn is_set(&self) -> bool {
        self.tokens < u64::MAX || self.cost_micros < u64::MAX
    }

    /// Fails if nothing is left.
    fn check(&self, spent: Spent, period: Period) -> Result<(), RunError> {
        let (whose, tokens_key, cost_key) = match period {
            Period::Run => ("the run has", "tokens_max", "cost_micros_max"),
            Period::AgentDay => {
                ("the agent's runs have today", "tokens_per_day_max", "cost_micros_per_day_max")
            }
            Period::TenantDay => (
                "the tenant's runs have today",
                "tenant_tokens_per_day_max",
                "tenant_cost_micros_per_day_max",
            ),
        };
        let until = match period {
            Period::Run => "",
            Period::AgentDay | Period::TenantDay => "; the next day begins at 00:00 UTC",
        };
        if spent.tokens >= self.tokens {
            return Err(RunError::failed(format!(
                "{whose} used {} tokens of fresh input and output, of {} allowed ({tokens_key}{until})",
                spent.tokens, self.tokens
            )));
        }
        if spent.cost_micros >= self.cost_micros {
            return Err(RunError::failed(format!(
                "{whose} cost {} millionths of the operator's currency, of {} allowed ({cost_key}{until})",
                spent.cost_micros, self.cost_micros
            )));
        }
        Ok(())
    }

    /// Whether so much fits beside what is reserved and spent.
    fn has_room(&self, spent: Spent, reserved: Spent, wanted: Spent) -> bool {
        let sum = |of: fn(Spent) -> u64| {
            of(spent).saturating_add(of(reserved)).saturating_add(of(wanted))
        };
        sum(|amount| amount.tokens) <= self.tokens
            && sum(|amount| amount.cost_micros) <= self.cost_micros
    }
}

impl Budgets {
    /// The budgets of runs whose spending this store records.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, tenants: Arc::default() }
    }

    /// The budget of one run.
    pub(super) fn of_run<'a>(
        &'a self,
        agent: &'a Agent,
        settings: &AgentSettings,
    ) -> RunBudget<'a> {
        let budget = &agent.definition.budget;
        let set = |limit: u64| (limit > 0).then_some(limit);
        let tenant_tokens = set(settings.tenant_tokens_per_day_max);
        let tenant_cost = set(settings.tenant_cost_micros_per_day_max);
        RunBudget {
            budgets: self,
            agent,
            run: Limit::of(
                [budget.tokens_max, set(settings.tokens_max)],
                [budget.cost_micros_max, set(settings.cost_micros_max)],
            ),
            agent_day: Limit::of(
                [budget.tokens_per_day_max, None],
                [budget.cost_micros_per_day_max, None],
            ),
            tenant_day: Limit::of([tenant_tokens, None], [tenant_cost, None]),
            spent: Spent::default(),
        }
    }

    fn of_tenant(&self, tenant: TenantId) -> Arc<TenantReservations> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tenants.entry(tenant).or_default())
    }
}

/// The budget of one run, with what it has spent so far.
pub(super) struct RunBudget<'a> {
    budgets: &'a Budgets,
    agent: &'a Agent,
    run: Limit,
    agent_day: Limit,
    tenant_day: Limit,
    spent: Spent,
}

impl RunBudget<'_> {
    /// Counts a turn of an earlier attempt, whose spending is recorded already.
    pub(super) fn count(&mut self, spending: Spending) {
        let Spent { tokens, cost_micros } = &mut self.spent;
        *tokens = tokens.saturating_add(spending.tokens);
        *cost_micros = cost_micros.saturating_add(spending.cost_micros.unwrap_or_default());
    }

    /// Opens the account of a turn of this model that has this many bytes of input which no cache may hold, and reserves
    /// what it may spend. If turns under way may spend all that is left, it waits for them. None if the model costs
    /// nothing.
    ///
    /// # Errors
    /// If a budget is spent, or one in money cannot be kept because a model has no price.
    pub(super) async fn open<'m>(
        &self,
        model: &'m dyn Model,
        new_bytes: usize,
    ) -> Result<Option<TurnAccount<'m>>, RunError> {
        let Some(expected) = model.estimate(new_bytes, None) else { return Ok(None) };
        let has_money_limit = [self.run, self.agent_day, self.tenant_day]
            .iter()
            .any(|limit| limit.cost_micros < u64::MAX);
        if has_money_limit && expected.cost_micros.is_none() {
            return Err(RunError::failed(
                "there is a budget in money, and the agent's model, or a fallback of it, has no price (fault: policy)",
            ));
        }
        self.run.check(self.spent, Period::Run)?;
        let wanted = Spent {
            tokens: expected.tokens,
            cost_micros: expected.cost_micros.unwrap_or_default(),
        };
        let reservation = self.reserve(wanted).await?;
        let records = SpendingRecords {
            budgets: self.budgets.clone(),
            owner: (self.agent.tenant, self.agent.id),
        };
        let received = Received::default();
        Ok(Some(TurnAccount { model, new_bytes, received, reservation, records: Some(records) }))
    }

    async fn reserve(&self, wanted: Spent) -> Result<Option<Reservation>, RunError> {
        let limits = [
            (self.agent_day, Some(self.agent.id), Period::AgentDay),
            (self.tenant_day, None, Period::TenantDay),
        ];
        if !limits.iter().any(|(limit, ..)| limit.is_set()) {
            return Ok(None);
        }
        let reservations = self.budgets.of_tenant(self.agent.tenant);
        let begun = Instant::now();
        loop {
            let day = self.budgets.clock.now().day();
            let limits = limits.iter().filter(|(limit, ..)| limit.is_set());
            let accounts: Vec<(Limit, Account, Period)> = limits
                .map(|&(limit, agent, period)| (limit, Account { agent, day }, period))
                .collect();
            // Before it is looked at what is reserved, so that no end of a reservation is missed.
            let ended = reservations.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let admitted = self.admit(&reservations, &accounts, wanted).await;
            if !matches!(admitted, Ok(None)) {
                // Another run that waits may have the same answer.
                reservations.ended.notify_one();
                return admitted;
            }
            if begun.elapsed() > WAIT_TIME_MAX {
                return Err(RunError::failed(format!(
                    "other turns under way may spend what is left of the day's budget (waited for {} s)",
                    WAIT_TIME_MAX.as_secs()
                )));
            }
            // Not for ever: a run that was woken may have ended since, and with it the news.
            let _timeout = tokio::time::timeout(RECHECK_PAUSE, ended).await;
        }
    }

    /// Reserves in all accounts, or returns None if turns under way may spend what is left.
    async fn admit(
        &self,
        reservations: &Arc<TenantReservations>,
        accounts: &[(Limit, Account, Period)],
        wanted: Spent,
    ) -> Result<Option<Reservation>, RunError> {
        let _admission = reservations.admission.lock().await;
        // Read before what is spent: a turn that ends in between counts twice rather than not at all.
        let reserved =
            reservations.by_account.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (limit, account, period) in accounts {
            let (tenant, Account { agent, day }) = (self.agent.tenant, *account);
            let spent = self.budgets.store.spent(tenant, agent, day).await?;
            limit.check(spent, *period)?;
            // What is left goes to one turn at least, though it may spend more.
            if let Some(reserved) = reserved.get(account)
                && !limit.has_room(spent, *reserved, wanted)
            {
                return Ok(None);
            }
        }
        let mut by_account = reservations.by_account.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, account, _) in accounts {
            let reserved = by_account.entry(*account).or_default();
            reserved.tokens = reserved.tokens.saturating_add(wanted.tokens);
            reserved.cost_micros = reserved.cost_micros.saturating_add(wanted.cost_micros);
        }
        let accounts = accounts.iter().map(|(_, account, _)| *account).collect();
        Ok(Some(Reservation { reservations: Arc::clone(reservations), accounts, wanted }))
    }
}

/// Where the spending of an agent is recorded.
#[derive(Debug, Clone)]
struct SpendingRecords {
    budgets: Budgets,
    owner: (TenantId, AgentId),
}

impl SpendingRecords {
    async fn add(&self, spending: Spending, usage: &Usage) -> Result<(), StoreError> {
        let day = self.budgets.clock.now().day();
        self.budgets.store.add_spending(self.owner, day, spending, usage).await
    }
}

/// The account of a turn under way. If it is dropped before the turn has ended, as when the run is stopped, what the turn
/// has spent so far is estimated and recorded: the provider will count it.
pub(super) struct TurnAccount<'m> {
    model: &'m dyn Model,
    new_bytes: usize,
    received: Received,
    reservation: Option<Reservation>,
    /// None once the account is closed.
    records: Option<SpendingRecords>,
}

impl TurnAccount<'_> {
    /// Counts what arrives.
    pub(super) fn received(&self) -> Received {
        self.received.clone()
    }

    /// What answers have cost that broke off: the input of each, and what the model has written, without `kept` bytes.
    fn lost(&self, answers: u32, kept: usize) -> Spending {
        let input = self.new_bytes.saturating_mul(answers as usize);
        let written = self.received.bytes().saturating_sub(kept);
        let lost = self.model.estimate(input, Some(written)).unwrap_or_default();
        Spending { is_estimated: true, ..lost }
    }

    /// Closes the account of a turn that has ended. Returns what it has spent, attempts included that broke off, and the
    /// recording of it, until whose end it stays reserved. It goes on if nobody waits for it: a run that is stopped now has
    /// spent it all the same.
    pub(super) fn close(mut self, turn: &Turn) -> (Spending, JoinHandle<Result<(), StoreError>>) {
        let mut spending = turn.spending.unwrap_or_default();
        let broken_off = self.received.answers().saturating_sub(1);
        if broken_off > 0 {
            let lost = self.lost(broken_off, turn.bytes());
            spending.tokens = spending.tokens.saturating_add(lost.tokens);
            let cost = spending.cost_micros.zip(lost.cost_micros);
            spending.cost_micros = cost.map(|(cost, lost)| cost.saturating_add(lost));
            spending.is_estimated = true;
        }
        let (records, reservation) = (self.records.take(), self.reservation.take());
        let usage = Usage { reported: None, ..turn.usage };
        let mut recording = Box::pin(async move {
            if let Some(records) = records
                && let Err(error) = records.add(spending, &usage).await
            {
                tracing::warn!(%error, "what a turn has spent is not recorded");
                return Err(error);
            }
            drop(reservation);
            Ok(())
        });
        // Polled at once, so that it is queued before whatever the run writes next: its end is not announced earlier.
        let recorded = match recording.as_mut().now_or_never() {
            Some(recorded) => tokio::spawn(std::future::ready(recorded)),
            None => tokio::spawn(recording),
        };
        (spending, recorded)
    }

    /// Closes the account of a turn that failed. A server that has not begun an answer has counted nothing, most
    /// probably.
    pub(super) fn fail(mut self) {
        if self.received.answers() == 0 {
            self.records = None;
        }
    }
}

impl Drop for TurnAccount<'_> {
    fn drop(&mut self) {
        let Some(records) = self.records.take() else { return };
        let lost = self.lost(self.received.answers().max(1), 0);
        let reservation = self.reservation.take();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = records.add(lost, &Usage::default()).await {
                tracing::warn!(%error, "what an interrupted turn has spent is not recorded");
            }
            drop(reservation);
        });
    }
}

/// What a turn under way may spend. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Reservation {
    reservations: Arc<TenantReservations>,
    accounts: Vec<Account>,
    wanted: Spent,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let by_account = &self.reservations.by_account;
        let mut by_account = by_account.lock().unwrap_or_else(PoisonError::into_inner);
        for account in &self.accounts {
            if let Some(reserved) = by_account.get_mut(account) {
                reserved.tokens = reserved.tokens.saturating_sub(self.wanted.tokens);
                reserved.cost_micros = reserved.cost_micros.saturating_sub(self.wanted.cost_micros);
                if *reserved == Spent::default() {
                    by_account.remove(account);
                }
            }
        }
        drop(by_account);
        self.reservations.ended.notify_one();
    }
}
