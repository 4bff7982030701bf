-- MCP servers whose tools a tenant's agents may call, with keys among the tenant's secrets.
CREATE TABLE mcp_servers (
    tenant_id  BLOB NOT NULL REFERENCES tenants (id),
    name       TEXT NOT NULL,
    definition TEXT NOT NULL,
    set_by     TEXT NOT NULL CHECK (set_by IN ('operator', 'admin')),
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;
