// Package snowflake writes to Snowflake: rows go as compressed JSON lines to a
// stage, and from there into tables.
package snowflake

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// limits suit a warehouse, which has to be awake for as long as a batch takes:
// rather few large batches than many small ones.
var limits = sink.Limits{Rows: 50_000, Bytes: 64 << 20, Age: 10 * time.Second, Metered: true}

// Driver describes Snowflake, reached with a password or a token.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "snowflake", Title: "Snowflake",
		Schemes:   []string{"snowflake"},
		Example:   "snowflake://user:password@myorg-account/database/schema?warehouse=WH",
		Summary:   "Writes rows to tables of Snowflake, with a password, an OAuth token or a programmatic access token.",
		Help:      passwordHelp + help(),
		Options:   options(tokenOptions),
		Fields:    passwordFields,
		Limits:    limits,
		KeepsRows: true,
		URL:       buildPasswordURL, Open: open, Identity: identity,
	}
}

// KeyPair describes Snowflake, reached with a private key.
func KeyPair() sink.Driver {
	return sink.Driver{
		Name: "snowflake-keypair", Title: "Snowflake with a key pair",
		Schemes:   []string{"snowflake-keypair"},
		Example:   "snowflake-keypair://user@myorg-account/database/schema?secret-key=SNOWFLAKE_KEY&warehouse=WH",
		Summary:   "Writes rows to tables of Snowflake, with a private key instead of a password.",
		Help:      keyPairHelp + help(),
		Options:   options(keyOptions),
		Fields:    keyPairFields,
		Limits:    limits,
		KeepsRows: true,
		URL:       buildKeyPairURL, Open: open, Identity: identity,
	}
}

const passwordHelp = `For example:

    snowflake://eds:${PASSWORD}@myorg-account/SHOP/PUBLIC?warehouse=EDS_WH&role=EDS
    snowflake://eds@myorg-account/SHOP/PUBLIC?warehouse=EDS_WH&token=${file:/run/secrets/pat}

What follows the user is the account identifier, as in the address of the
account, or the whole host name: myorg-account.snowflakecomputing.com. Snowflake
asks people for a second factor besides their password; for a program make a
user of TYPE = SERVICE, with a programmatic access token (token=) or a key pair
(eds server help snowflake-keypair).

`

const keyPairHelp = `For example:

    snowflake-keypair://eds@myorg-account/SHOP/PUBLIC?secret-key=SNOWFLAKE_KEY&warehouse=EDS_WH
    snowflake-keypair://eds@myorg-account/SHOP/PUBLIC?private-key-file=/etc/eds/key.p8&key-passphrase=KEY_PASSPHRASE&warehouse=EDS_WH

Make a key and give its public half to the user:

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

and the ownership of tables that exist already. A schema that does not exist is
made where the role has CREATE SCHEMA on the database.

Tables and columns are created with the source's names, quoted: select them as
"order". Tables and columns that an earlier tool made without quotes, in upper
case, are found and used. Tables that exist keep their types; columns are added,
and widened where a type no longer holds the source's. Each batch is one
transaction with its checkpoint: every change takes effect exactly once.

Every batch wakes the warehouse, and a warehouse is paid for by the time it is
awake, for a minute at least. flush-interval=5m writes every five minutes at
most; give the warehouse AUTO_SUSPEND = 60.

Values that a column can not hold are set aside in the dead-letter queue. These
are adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// destination is a SQL sink that says how much it wants at a time.
type destination struct {
	*sqlsink.Sink
	limits sink.Limits
}

// Limits implements sink.Pacer.
func (d *destination) Limits() sink.Limits { return d.limits }

// open connects to the destination.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	o, err := parse(target, env)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	s, err := sqlsink.Open(ctx, &dialect{target: target, account: o.account, env: env}, o.shared, env)
	if err != nil {
		return nil, err
	}
	return &destination{Sink: s, limits: o.limits}, nil
}
