package selfupdate

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/google/go-cmp/cmp"
)

func TestPublicKey_IsShopmonkeys(t *testing.T) {
	text, err := PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"C994 6E99 DD65 5505 AD5F E9D2 FECF F491 5E7B F492"}, keys.Fingerprints()); diff != "" {
		t.Error(diff)
	}
}

func TestPublicKey_IsReplacedInPrivateBuilds(t *testing.T) {
	armored, err := newKey(t, "Own", 0).GetArmoredPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	defer func(before string) { ownKey = before }(ownKey)
	ownKey = base64.StdEncoding.EncodeToString([]byte(armored))
	if got, err := PublicKey(); err != nil || got != armored {
		t.Errorf("%q, %v", got, err)
	}
	ownKey = "?"
	if _, err := PublicKey(); err == nil {
		t.Error("no error")
	}
}

func TestParseKeys_ReadsPublicKeysOnly(t *testing.T) {
	one, two := newKey(t, "One", 0), newKey(t, "Two", 0)
	public := func(k *crypto.Key) []byte {
		binary, err := k.GetPublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return binary
	}
	armored := func(k *crypto.Key) []byte {
		text, err := k.GetArmoredPublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return []byte(text + "\n")
	}
	private, err := one.Armor()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		want int
		says string
	}{
		"armored":     {armored(one), 1, ""},
		"binary":      {public(one), 1, ""},
		"two armored": {append(append([]byte("The keys:\n\n"), armored(one)...), armored(two)...), 2, ""},
		"two binary":  {append(public(one), public(two)...), 2, ""},
		"nothing":     {nil, 0, "not a PGP public key"},
		"prose":       {[]byte("hello"), 0, "not a PGP public key"},
		"cut":         {armored(one)[:80], 0, "not a PGP public key"},
		"private":     {[]byte(private), 0, "a private key"},
	} {
		keys, err := ParseKeys(c.text)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %q", name, err, c.says)
			}
			continue
		}
		if err != nil || len(keys.Fingerprints()) != c.want {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
	}
}

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestVerify_AcceptsSignaturesOfGPG(t *testing.T) {
	keys, err := ParseKeys(testdata(t, "gpg-keys.asc"))
	if err != nil {
		t.Fatal(err)
	}
	signed := testdata(t, "signed.txt")
	for name, want := range map[string]error{"ed25519.sig": nil, "armored.sig": nil, "rsa-subkey.sig": nil, "text.sig": ErrBadSignature} {
		if err := keys.verify(bytes.NewReader(signed), testdata(t, name), time.Now()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		changed := bytes.Replace(signed, []byte("not"), []byte("now"), 1)
		if err := keys.verify(bytes.NewReader(changed), testdata(t, name), time.Now()); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s, of a text that was changed: %v", name, err)
		}
	}
}

func TestVerify_AcceptsOneGoodSignatureOfSeveral(t *testing.T) {
	ours, theirs, text := newKey(t, "Ours", 0), newKey(t, "Theirs", 0), []byte("text")
	both := append(sign(t, theirs, text), sign(t, ours, text)...)
	if err := trusting(t, ours).verify(bytes.NewReader(text), both, time.Now()); err != nil {
		t.Error(err)
	}
	if err := trusting(t, ours).verify(bytes.NewReader([]byte("other")), both, time.Now()); !errors.Is(err, ErrBadSignature) {
		t.Error(err)
	}
}

func TestVerify_BlamesTheClockForAFutureSignature(t *testing.T) {
	key := newKey(t, "Releases", 0)
	signature := sign(t, key, []byte("text"))
	err := trusting(t, key).verify(strings.NewReader("text"), signature, time.Now().Add(-24*time.Hour))
	if err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Error(err)
	}
}

func TestVerify_RefusesAnExpiredSubkey(t *testing.T) {
	keys, err := ParseKeys(testdata(t, "expired-subkey.asc"))
	if err != nil {
		t.Fatal(err)
	}
	for day, want := range map[int]error{3: nil, 40: ErrExpiredKey} { // it lived for 30 days
		now := time.Date(2024, time.January, day, 0, 0, 0, 0, time.UTC)
		if err := keys.verify(bytes.NewReader(testdata(t, "signed.txt")), testdata(t, "expired-subkey.sig"), now); !errors.Is(err, want) {
			t.Errorf("on day %d: %v, want %v", day, err, want)
		}
	}
}
