// Package snowflake writes to Snowflake. It uploads rows as compressed JSON lines to a stage, and
// merges the uploaded rows into tables.
package snowflake

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// limits are the default limits of a batch. Snowflake bills the time for which a warehouse runs, so
// a few large batches cost less than many small ones.
var limits = sink.Limits{Rows: 50_000, Bytes: 64 << 20, Age: 10 * time.Second, Metered: true}

// Driver returns the driver for Snowflake that signs in with a password or a token.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "snowflake", Title: "Snowflake",
		Schemes:   []string{"snowflake"},
		Example:   "snowflake://user:password@myorg-account/database/schema?warehouse=WH",
		Summary:   "Writes rows to tables of Snowflake, with a password, an OAuth token or a programmatic access token.",
		Help:      passwordHelp + help(),
		Options:   optionsOf(tokenOptions),
		Fields:    passwordFields,
		Limits:    limits,
		KeepsRows: true,
		URL:       buildPasswordURL, Open: open, Identity: identity,
	}
}

// KeyPair returns the driver for Snowflake that signs in with a private key.
func KeyPair() sink.Driver {
	return sink.Driver{
		Name: "snowflake-keypair", Title: "Snowflake with a key pair",
		Schemes:   []string{"snowflake-keypair"},
		Example:   "snowflake-keypair://user@myorg-account/database/schema?secret-key=SNOWFLAKE_KEY&warehouse=WH",
		Summary:   "Writes rows to tables of Snowflake, with a private key instead of a password.",
		Help:      keyPairHelp + help(),
		Options:   optionsOf(keyOptions),
		Fields:    keyPairFields,
		Limits:    limits,
		KeepsRows: true,
		URL:       buildKeyPairURL, Open: open, Identity: identity,
	}
}

const passwordHelp = `For example:

    snowflake://eds:${PASSWORD}@myorg-account/SHOP/PUBLIC?warehouse=EDS_WH&role=EDS
    snowflake://eds@myorg-account/SHOP/PUBLIC?warehouse=EDS_WH&token=${file:/run/secrets/pat}

The host is the account identifier, as in the address of the account, or the whole
host name: myorg-account.snowflakecomputing.com. Snowflake asks people for a second
factor besides their password; for a program create a user of TYPE = SERVICE, with a
programmatic access token (token=) or a key pair (eds server help snowflake-keypair).

`

const keyPairHelp = `For example:

    snowflake-keypair://eds@myorg-account/SHOP/PUBLIC?secret-key=SNOWFLAKE_KEY&warehouse=EDS_WH
    snowflake-keypair://eds@myorg-account/SHOP/PUBLIC?private-key-file=/etc/eds/key.p8&key-passphrase=KEY_PASSPHRASE&warehouse=EDS_WH

Create a key and give its public half to the user:

    openssl genrsa 2048 | openssl pkcs8 -topk8 -nocrypt -out key.p8
    openssl rsa -in key.p8 -pubout | grep -v ^- | tr -d '\n'
    ALTER USER eds SET RSA_PUBLIC_KEY = '...';

The key is PKCS#8 in PEM, or the base64 of its DER form on one line. It may be
encrypted (openssl pkcs8 -topk8 -v2 aes-256-cbc); then key-passphrase names the
environment variable with the passphrase.

`

func help() string {
	var b strings.Builder
	b.WriteString(`The role needs these permissions:

    CREATE ROLE eds;
    GRANT USAGE ON WAREHOUSE eds_wh TO ROLE eds;
    GRANT USAGE ON DATABASE shop TO ROLE eds;
    GRANT USAGE, CREATE TABLE, CREATE STAGE ON SCHEMA shop.public TO ROLE eds;
    GRANT ROLE eds TO USER eds;

and the ownership of existing tables. eds creates a schema that does not exist if the
role has CREATE SCHEMA on the database.

eds creates tables and columns with the source's names, quoted: select them as
"order". It also finds and uses tables and columns that an earlier tool created
without quotes, in upper case. Existing tables keep their types; eds adds columns,
and widens a column if its type no longer holds the source's. Each batch is one
transaction with its checkpoint: every change takes effect exactly once.

Every batch wakes the warehouse, which costs at least a minute of its time.
flush-interval=5m writes every five minutes at most; give the warehouse
AUTO_SUSPEND = 60.

A change with a value that a column cannot hold is dead-lettered. These values are
adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// limitedSink is a SQL sink that has the batch limits of its URL.
type limitedSink struct {
	*sqlsink.Sink
	limits sink.Limits
}

// Limits implements sink.Pacer.
func (d *limitedSink) Limits() sink.Limits { return d.limits }

// open opens the destination at target.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	c, err := parse(target, env)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	s, err := sqlsink.Open(ctx, &dialect{target: target, account: c.account, env: env}, c.shared, env)
	if err != nil {
		return nil, err
	}
	return &limitedSink{Sink: s, limits: c.limits}, nil
}
