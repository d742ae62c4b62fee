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

// Reasons to refuse a signature. Each has another remedy.
var (
	// ErrUnknownKey: no trusted key made the signature.
	ErrUnknownKey = errors.New("the archive is signed by a key that this program does not trust")
	// ErrExpiredKey: a trusted key made it, and has expired.
	ErrExpiredKey = errors.New("the archive is signed by a key that has expired")
	// ErrRevokedKey: a trusted key made it, and was revoked.
	ErrRevokedKey = errors.New("the archive is signed by a key that was revoked")
	// ErrBadSignature: a trusted key made it, for other data.
	ErrBadSignature = errors.New("the signature is not of this archive")
)

// shopmonkeyKey is the public key of releases.
//
//go:embed key.asc
var shopmonkeyKey string

// ownKey replaces the built-in key in private builds: base64 of the key file, set by the
// linker.
var ownKey string

// PublicKey returns the built-in key in PGP armor, or the key that replaces it in a private
// build.
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

// Keys are the trusted public keys of releases.
type Keys struct{ ring *crypto.KeyRing }

const armorBegin = "-----BEGIN PGP"

// ParseKeys reads public keys, one or more, armored or binary.
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

// Fingerprints returns the keys' fingerprints, in groups of four like gpg.
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

// verify checks a detached signature, armored or binary, of the archive. One signature by
// one key that is valid now suffices.
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

// worst returns the most informative problem: that of a trusted key, if there is one.
func worst(problems []error) error {
	for _, p := range problems {
		if !errors.Is(p, ErrUnknownKey) {
			return p
		}
	}
	return problems[0]
}

// check returns the reason to refuse a signature, or nil.
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
	// A text signature would also match other line endings.
	if s.Signature.SigType != 0 {
		return fmt.Errorf("%w: it is a signature of text", ErrBadSignature)
	}
	return nil
}

// find returns the key with an id, or with a subkey of that id.
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
