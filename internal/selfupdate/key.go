package selfupdate

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/gopenpgp/v3/armor"
	"github.com/ProtonMail/gopenpgp/v3/crypto"
)

// Reasons to refuse a signature. Each reason has a different remedy.
var (
	// ErrUnknownKey means that no trusted key made the signature.
	ErrUnknownKey = errors.New("the archive is signed by a key that this program does not trust")
	// ErrExpiredKey means that a trusted key made the signature, but has expired.
	ErrExpiredKey = errors.New("the archive is signed by a key that has expired")
	// ErrRevokedKey means that a trusted key made the signature, but was revoked.
	ErrRevokedKey = errors.New("the archive is signed by a key that was revoked")
	// ErrBadSignature means that the signature is unusable, or does not match the archive.
	ErrBadSignature = errors.New("the signature is not of this archive")
)

// shopmonkeyKey is the built-in public key that signs releases, in PGP armor.
//
//go:embed key.asc
var shopmonkeyKey string

// ownKey is the base64 of a key file that replaces the built-in key, or "". The linker sets it
// in private builds.
var ownKey string

// PublicKey returns the built-in key in PGP armor. In a private build it returns the content of
// the key file that replaces the built-in key.
func PublicKey() (string, error) {
	if ownKey == "" {
		return shopmonkeyKey, nil
	}
	text, err := base64.StdEncoding.DecodeString(ownKey)
	if err != nil {
		return "", fmt.Errorf("read the key of this private build: %w; set it to the base64 of a key file", err)
	}
	return string(text), nil
}

// Keys are the public keys that are trusted to sign releases.
type Keys struct{ ring *crypto.KeyRing }

const armorBegin = "-----BEGIN PGP"

// ParseKeys reads one or more public keys, armored or binary. It refuses private keys.
func ParseKeys(text []byte) (*Keys, error) {
	ring, err := readRing(text)
	if err != nil || ring.CountEntities() == 0 {
		return nil, errors.New("read the public key of releases: this is not a PGP public key; export it with: gpg --armor --export KEY")
	}
	for _, k := range ring.GetKeys() {
		if k.IsPrivate() {
			return nil, errors.New("read the public key of releases: this is a private key, which must not leave its machine; " +
				"export the public key with: gpg --armor --export KEY")
		}
	}
	return &Keys{ring}, nil
}

func readRing(text []byte) (*crypto.KeyRing, error) {
	first := bytes.Index(text, []byte(armorBegin))
	if first < 0 {
		return crypto.NewKeyRingFromBinary(text)
	}
	var binary []byte
	for _, block := range strings.Split(string(text[first:]), armorBegin)[1:] {
		keys, err := armor.Unarmor(armorBegin + block)
		if err != nil {
			return nil, err
		}
		binary = append(binary, keys...)
	}
	return crypto.NewKeyRingFromBinary(binary)
}

// Fingerprints returns the fingerprint of each key in hexadecimal, in groups of four digits as
// gpg prints them.
func (k *Keys) Fingerprints() []string {
	var all []string
	for _, key := range k.ring.GetKeys() {
		all = append(all, fingerprint(key))
	}
	return all
}

func fingerprint(key *crypto.Key) string {
	var groups []string
	for part := range slices.Chunk([]byte(strings.ToUpper(key.GetFingerprint())), 4) {
		groups = append(groups, string(part))
	}
	return strings.Join(groups, " ")
}

// verify checks a detached signature of the archive. The signature may be armored or binary. If
// there are several signatures, verify accepts the archive if one of them was made by a trusted key
// and is valid at the given time.
func (k *Keys) verify(archive io.Reader, signature []byte, now time.Time) error {
	handle, err := crypto.PGP().Verify().VerificationKeys(k.ring).VerifyTime(now.Unix()).New()
	if err != nil {
		return fmt.Errorf("verify the signature: %w", err)
	}
	reader, err := handle.VerifyingReader(archive, bytes.NewReader(signature), crypto.Auto)
	if err != nil {
		return fmt.Errorf("%w: it cannot be read: %w", ErrBadSignature, err)
	}
	if _, err := io.Copy(io.Discard, onlyReader{reader}); err != nil {
		return fmt.Errorf("verify the signature: %w", err)
	}
	result, err := reader.VerifySignature()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	var problems []error
	for _, s := range result.Signatures {
		problem := k.check(s, now)
		if problem == nil {
			return nil
		}
		problems = append(problems, problem)
	}
	if len(problems) == 0 {
		return fmt.Errorf("%w: the file has none", ErrBadSignature)
	}
	return worst(problems)
}

// onlyReader hides all methods of a reader except Read.
type onlyReader struct{ io.Reader }

// worst returns the most informative problem. That is the first problem with a signature by a
// trusted key. If there is no such problem, worst returns the first of all problems.
func worst(problems []error) error {
	for _, p := range problems {
		if !errors.Is(p, ErrUnknownKey) {
			return p
		}
	}
	return problems[0]
}

// check returns the reason to refuse the signature s, or nil if the signature is good.
func (k *Keys) check(s *crypto.VerifiedSignature, now time.Time) error {
	if s.Signature == nil || s.Signature.IssuerKeyId == nil {
		return fmt.Errorf("%w: it does not name its key", ErrBadSignature)
	}
	id := *s.Signature.IssuerKeyId
	key := k.find(id)
	if key == nil {
		return fmt.Errorf("%w: %016X; trusted is %s", ErrUnknownKey, id, strings.Join(k.Fingerprints(), ", "))
	}
	if made := s.Signature.CreationTime; made.After(now) {
		return fmt.Errorf("%w: it was made at %s, and the clock of this machine says %s; set the clock",
			ErrBadSignature, made.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	switch at := now.Unix(); {
	case key.IsRevoked(at):
		return fmt.Errorf("%w: %s", ErrRevokedKey, fingerprint(key))
	case key.IsExpired(at):
		return fmt.Errorf("%w: %s; install a newer eds by hand once, which has the newer key", ErrExpiredKey, fingerprint(key))
	}
	if _, ok := key.GetEntity().SigningKeyById(now, id, nil); !ok {
		return fmt.Errorf("%w: %016X, a subkey of %s", ErrExpiredKey, id, fingerprint(key))
	}
	if s.SignatureError != nil {
		return fmt.Errorf("%w: one of them was changed or damaged on its way", ErrBadSignature)
	}
	// A signature of type text ignores differences in line endings, so that it would also match
	// a changed archive.
	if s.Signature.SigType != 0 {
		return fmt.Errorf("%w: it is a signature of text", ErrBadSignature)
	}
	return nil
}

// find returns the key that has the given id, or has a subkey with that id. It returns nil if
// there is no such key.
func (k *Keys) find(id uint64) *crypto.Key {
	for _, key := range k.ring.GetKeys() {
		entity := key.GetEntity()
		if entity.PrimaryKey.KeyId == id {
			return key
		}
		for _, sub := range entity.Subkeys {
			if sub.PublicKey.KeyId == id {
				return key
			}
		}
	}
	return nil
}
