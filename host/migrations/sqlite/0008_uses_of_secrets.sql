-- What a secret may be used for, whoever binds it, and who said so. Secrets of before may be used for everything,
-- as they could be: a channel or a grants file that has one of them sign goes on working.
ALTER TABLE secrets ADD COLUMN uses TEXT NOT NULL DEFAULT 'verify,compare,sign,send';

-- NULL where it was not written down yet.
ALTER TABLE secrets ADD COLUMN set_by TEXT CHECK (set_by IN ('operator', 'admin'));
