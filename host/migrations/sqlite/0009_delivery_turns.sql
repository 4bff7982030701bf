-- Deliveries are taken in turns of tenants: the first one of each is found by one look.
CREATE INDEX deliveries_due_of_tenant ON deliveries (tenant_id, due_at) WHERE due_at IS NOT NULL;
