//! The budget for bytes of request bodies, and of long responses, that are held at a time: in total, and for each
//! channel, tenant and client.
//!
//! A charge that does not fit is rejected and does not wait: two half-read bodies could each wait for the other. No
//! holder gets more than half of what it leaves free for all others, by the rule of `crate::shares` with each byte
//! counted twice. A single greedy holder gets a third, two get a quarter each, and so on: however many holders are
//! hostile, some of the budget is left for the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;

use super::client::ClientNetwork;
use crate::ids::{ChannelId, TenantId};
use crate::settings::HttpSettings;
use crate::shares;

/// Bytes that must stay free for each byte that a channel, tenant or client holds.
const FREE_BYTES_PER_HELD: usize = 2;

/// The budget of one gateway. Clones share it.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    usage: Mutex<Usage>,
}

/// The limits, in bytes.
#[derive(Debug)]
struct Limits {
    all: usize,
    channel: usize,
    tenant: usize,
    client: usize,
}

#[derive(Debug, Default)]
struct Usage {
    all: usize,
    by: HashMap<Holder, usize>,
}

/// A holder of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Channel(ChannelId),
    Tenant(TenantId),
    Client(ClientNetwork),
}

/// The limit that a charge would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverBudget {
    /// The gateway's: the total is exceeded, or too little would be left and this sender does not hold most of what
    /// is in use.
    Gateway,
    /// The channel's own.
    Channel,
    /// The tenant's own.
    Tenant,
    /// The client's own.
    Client,
}

/// The holders that a body is charged to, as far as they are known when it is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sender {
    channel: Option<ChannelId>,
    tenant: Option<TenantId>,
    client: Option<ClientNetwork>,
}

/// A request extension: the tenant of the request's key, set once the key has been verified.
#[derive(Debug, Clone, Copy)]
pub(super) struct AuthenticatedTenant(pub(super) TenantId);

impl Sender {
    /// The client of a request, and the tenant of its key if the key has been verified. A request that did not arrive
    /// through a socket has no client.
    pub(super) fn from_head(head: &Parts) -> Self {
        let client = head.extensions.get::<ClientNetwork>().copied();
        let tenant = head.extensions.get::<AuthenticatedTenant>().map(|proven| proven.0);
        Self { channel: None, tenant, client }
    }

    /// The client of a request, without its tenant.
    pub(super) fn by_client<B>(request: &http::Request<B>) -> Self {
        let client = request.extensions().get::<ClientNetwork>().copied();
        Self { client, ..Self::default() }
    }

    /// Adds the tenant.
    pub(super) fn tenant(self, tenant: TenantId) -> Self {
        Self { tenant: Some(tenant), ..self }
    }

    /// Adds the channel.
    pub(super) fn channel(self, channel: ChannelId) -> Self {
        Self { channel: Some(channel), ..self }
    }

    /// The tenant, if it is known.
    pub(super) fn proven_tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    fn holders(&self) -> impl Iterator<Item = Holder> {
        let channel = self.channel.map(Holder::Channel);
        let tenant = self.tenant.map(Holder::Tenant);
        [channel, tenant, self.client.map(Holder::Client)].into_iter().flatten()
    }
}

impl BodyBudget {
    /// Creates an unused budget with the limits of these settings.
    #[must_use]
    pub fn new(settings: &HttpSettings) -> Self {
        let limits = Limits {
            all: settings.held_body_bytes_max,
            channel: settings.held_body_bytes_per_channel_max,
            tenant: settings.held_body_bytes_per_tenant_max,
            client: match settings.held_body_bytes_per_address_max {
                0 => usize::MAX,
                max => max,
            },
        };
        Self(Arc::new(Shared { limits, usage: Mutex::default() }))
    }

    /// How many bytes are held now, in total.
    pub(super) fn held(&self) -> usize {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// Opens an empty charge for this sender.
    pub(super) fn charge(&self, sender: Sender) -> Charge {
        Charge { budget: self.clone(), sender, bytes: 0 }
    }

    fn reserve(&self, sender: &Sender, more: usize) -> Result<(), OverBudget> {
        let limits = &self.0.limits;
        let mut usage = self.0.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let all = usage.all.saturating_add(more);
        let free = limits.all.checked_sub(all).ok_or(OverBudget::Gateway)?;
        for holder in sender.holders() {
            let (max, own) = match holder {
                Holder::Channel(_) => (limits.channel, OverBudget::Channel),
                Holder::Tenant(_) => (limits.tenant, OverBudget::Tenant),
                Holder::Client(_) => (limits.client, OverBudget::Client),
            };
            let now = usage.by.get(&holder).copied().unwrap_or_default().saturating_add(more);
            if now > max {
                return Err(own);
            }
            // A client without a limit of its own is a proxy, which stands for many clients.
            let counted = now.saturating_mul(FREE_BYTES_PER_HELD);
            if !shares::leaves_enough(counted, free) && max != usize::MAX {
                let others = all.saturating_sub(now);
                return Err(if now > others { own } else { OverBudget::Gateway });
            }
        }
        usage.all = all;
        for holder in sender.holders() {
            *usage.by.entry(holder).or_default() += more;
        }
        Ok(())
    }

    fn release(&self, sender: &Sender, bytes: usize) {
        let mut usage = self.0.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.all = usage.all.saturating_sub(bytes);
        for holder in sender.holders() {
            if let Some(now) = usage.by.get_mut(&holder) {
                *now = now.saturating_sub(bytes);
                if *now == 0 {
                    usage.by.remove(&holder);
                }
            }
        }
    }
}

/// Bytes charged to a sender, released on drop.
#[derive(Debug)]
pub(super) struct Charge {
    budget: BodyBudget,
    sender: Sender,
    bytes: usize,
}

impl Charge {
    /// Raises the charge to this many bytes in total.
    ///
    /// # Errors
    /// If they do not fit. The earlier charge stays.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes > self.bytes {
            self.budget.reserve(&self.sender, bytes - self.bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.release(&self.sender, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::settings::Settings;

    fn budget(all: usize, each: [usize; 3]) -> BodyBudget {
        let mut settings = Settings::of_defaults().unwrap().http;
        settings.held_body_bytes_max = all;
        settings.held_body_bytes_per_channel_max = each[0];
        settings.held_body_bytes_per_tenant_max = each[1];
        settings.held_body_bytes_per_address_max = each[2];
        BodyBudget::new(&settings)
    }

    fn client(number: u8) -> Sender {
        let address = IpAddr::from([192, 0, 2, number]);
        Sender { client: Some(address.into()), ..Sender::default() }
    }

    fn charged(budget: &BodyBudget, sender: Sender, bytes: usize) -> Result<Charge, OverBudget> {
        let mut charge = budget.charge(sender);
        charge.grow_to(bytes).map(|()| charge)
    }

    #[test]
    fn each_share_has_its_own_end_and_comes_back() {
        let budget = budget(1_000, [100, 200, 300]);
        let (tenant, channel) = (TenantId::random(), ChannelId::random());
        let by_hook = client(1).tenant(tenant).channel(channel);
        let hook = charged(&budget, by_hook, 100).unwrap();
        assert_eq!(charged(&budget, by_hook, 1).unwrap_err(), OverBudget::Channel);
        let other = by_hook.channel(ChannelId::random());
        let other = charged(&budget, other, 100).unwrap();
        let by_key = client(1).tenant(tenant);
        assert_eq!(charged(&budget, by_key, 1).unwrap_err(), OverBudget::Tenant);
        let stranger = charged(&budget, client(1), 100).unwrap();
        assert_eq!(charged(&budget, client(1), 1).unwrap_err(), OverBudget::Client);
        // Other holders are not affected, and dropped charges are released.
        let elsewhere = client(2).tenant(TenantId::random()).channel(ChannelId::random());
        drop(charged(&budget, elsewhere, 100).unwrap());
        drop((hook, other, stranger));
        assert!(budget.0.usage.lock().unwrap().by.is_empty());
        assert_eq!(budget.0.usage.lock().unwrap().all, 0);
    }

    #[test]
    fn a_charge_that_does_not_fit_changes_nothing() {
        let budget = budget(1_000, [1_000, 100, 1_000]);
        let sender = client(1).tenant(TenantId::random());
        let mut charge = charged(&budget, sender, 60).unwrap();
        assert_eq!(charge.grow_to(101), Err(OverBudget::Tenant));
        charge.grow_to(100).unwrap();
        assert_eq!(budget.0.usage.lock().unwrap().all, 100);
    }

    #[test]
    fn however_many_are_greedy_some_is_left_for_the_next_one() {
        let budget = budget(1 << 20, [1 << 20; 3]);
        let mut held = Vec::new();
        for number in 1..=8 {
            let mut charge = budget.charge(client(number));
            let mut bytes = 0;
            while charge.grow_to(bytes + 1_024).is_ok() {
                bytes += 1_024;
            }
            held.push(charge);
        }
        let _honest = charged(&budget, client(9), 8 << 10).unwrap();
        // A holder that releases its bytes and charges again gets its equal share of the total.
        held.remove(0);
        let share = (1 << 20) / (8 + FREE_BYTES_PER_HELD);
        let _again = charged(&budget, client(1), share).unwrap();
    }

    #[test]
    fn whoever_holds_most_is_refused_for_his_own_share_and_others_for_the_gateways() {
        let budget = budget(900, [900; 3]);
        let greedy = client(1).tenant(TenantId::random());
        let _held = charged(&budget, greedy, 300).unwrap();
        assert_eq!(charged(&budget, greedy, 1).unwrap_err(), OverBudget::Tenant);
        assert_eq!(charged(&budget, client(2), 201).unwrap_err(), OverBudget::Gateway);
    }

    #[test]
    fn without_a_bound_of_addresses_a_proxy_may_use_all_of_it() {
        let budget = budget(1_000, [1_000, 1_000, 0]);
        let _whole = charged(&budget, client(1), 1_000).unwrap();
        assert_eq!(charged(&budget, client(1), 1).unwrap_err(), OverBudget::Gateway);
    }
}
