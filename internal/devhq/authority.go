package devhq

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// authority is the root of trust of the NATS server. It consists of an operator, the account of
// the stream, and the server's system account. Their keys are stored in the data directory.
type authority struct {
	operator, account, system nkeys.KeyPair
	operatorClaims            *jwt.OperatorClaims
	accountKey, systemKey     string // public keys
	accountJWT, systemJWT     string
}

// user is a NATS user with its credentials.
type user struct {
	publicKey string
	jwt       string
	seed      []byte
}

func loadAuthority(s *store) (*authority, error) {
	a := new(authority)
	for _, key := range []struct {
		name   string
		create func() (nkeys.KeyPair, error)
		into   *nkeys.KeyPair
	}{
		{"operator", nkeys.CreateOperator, &a.operator},
		{"account", nkeys.CreateAccount, &a.account},
		{"system", nkeys.CreateAccount, &a.system},
	} {
		seed, err := s.secret(key.name, func() ([]byte, error) {
			pair, err := key.create()
			if err != nil {
				return nil, err
			}
			return pair.Seed()
		})
		if err != nil {
			return nil, err
		}
		if *key.into, err = nkeys.FromSeed(seed); err != nil {
			return nil, fmt.Errorf("read the %s key: %w", key.name, err)
		}
	}
	return a, a.issue()
}

// issue creates and signs the claims of the operator and the accounts.
func (a *authority) issue() error {
	operatorKey, err := a.operator.PublicKey()
	if err != nil {
		return fmt.Errorf("read the operator key: %w", err)
	}
	if a.accountKey, err = a.account.PublicKey(); err != nil {
		return fmt.Errorf("read the account key: %w", err)
	}
	if a.systemKey, err = a.system.PublicKey(); err != nil {
		return fmt.Errorf("read the system key: %w", err)
	}
	a.operatorClaims = jwt.NewOperatorClaims(operatorKey)
	a.operatorClaims.Name = "devhq"
	a.operatorClaims.SystemAccount = a.systemKey

	shop := jwt.NewAccountClaims(a.accountKey)
	shop.Name = "shop"
	shop.Limits.JetStreamLimits = jwt.JetStreamLimits{
		DiskStorage: jwt.NoLimit, MemoryStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit, MaxAckPending: jwt.NoLimit,
	}
	if a.accountJWT, err = shop.Encode(a.operator); err != nil {
		return fmt.Errorf("sign the account: %w", err)
	}
	system := jwt.NewAccountClaims(a.systemKey)
	system.Name = "system"
	if a.systemJWT, err = system.Encode(a.operator); err != nil {
		return fmt.Errorf("sign the system account: %w", err)
	}
	return nil
}

// sessionUser creates the NATS user for a session. The name of the user is the server's id. The
// user expires after the given duration, and has only the permissions that a server needs.
func (a *authority) sessionUser(serverID, sessionID string, companies []string, life time.Duration) (user, error) {
	var sub jwt.StringList
	for _, company := range companies {
		sub.Add("dbchange.*.*." + company + ".*.PUBLIC.>")
	}
	sub.Add("eds.notify."+sessionID+".>", "_INBOX.>")
	return a.newUser(func(c *jwt.UserClaims) {
		c.Name = serverID
		c.Expires = time.Now().Add(life).Unix()
		c.Sub.Allow = sub
		c.Pub.Allow.Add(
			"$JS.API.STREAM.NAMES",
			"$JS.API.CONSUMER.>",
			"$JS.API.CONSUMER.MSG.NEXT.dbchange.>",
			"$JS.ACK.dbchange.>",
			"eds.client."+sessionID+".>",
			"_INBOX.>",
		)
	})
}

// adminUser creates HQ's own user, which has all permissions in the account.
func (a *authority) adminUser() (user, error) {
	return a.newUser(func(c *jwt.UserClaims) { c.Name = "hq" })
}

// devUser creates the user for clients without a credential. This user may read every company, and
// may send messages for every session.
func (a *authority) devUser() (user, error) {
	return a.newUser(func(c *jwt.UserClaims) {
		c.Name = "dev"
		c.BearerToken = true
		c.Sub.Allow.Add("dbchange.>", "eds.notify.>", "_INBOX.>")
		c.Pub.Allow.Add("$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.>", "$JS.ACK.dbchange.>", "eds.client.>", "_INBOX.>")
	})
}

func (a *authority) newUser(claim func(*jwt.UserClaims)) (user, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return user{}, fmt.Errorf("create a user key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return user{}, fmt.Errorf("read the user key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return user{}, fmt.Errorf("read the user key: %w", err)
	}
	claims := jwt.NewUserClaims(public)
	claim(claims)
	token, err := claims.Encode(a.account)
	if err != nil {
		return user{}, fmt.Errorf("sign the user: %w", err)
	}
	return user{publicKey: public, jwt: token, seed: slices.Clone(seed)}, nil
}

// creds returns the credentials of the user in the format of a NATS creds file.
func (u user) creds() ([]byte, error) {
	text, err := jwt.FormatUserConfig(u.jwt, u.seed)
	if err != nil {
		return nil, fmt.Errorf("format the credential: %w", err)
	}
	return text, nil
}
