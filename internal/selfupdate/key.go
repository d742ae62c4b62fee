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

// Reasons why a signature is not accepted. Each is of its own, because each is
// mended by other means.
var (
	// ErrUnknownKey: none of our keys made the signature.
	ErrUnknownKey = errors.New("the archive is signed by a key that this program does not trust")
	// ErrExpiredKey: one of our keys made it, and has expired.
	ErrExpiredKey = errors.New("the archive is signed by a key that has expired")
	// ErrRevokedKey: one of our keys made it, and was revoked.
	ErrRevokedKey = errors.New("the archive is signed by a key that was revoked")
	// ErrBadSignature: one of our keys made it, for something else.
	ErrBadSignature = errors.New("the signature is not of this archive")
)

// shopmonkeyKey is the public key that releases are signed by.
//
//go:embed key.asc
var shopmonkeyKey string

// ownKey replaces the built-in key in builds of one's own: base64 of the key
// file, stamped by the linker.
var ownKey string

// PublicKey returns the built-in key, armored as PGP has it, or the one that this
// build was given in its place.
func PublicKey() (string, error) {
	if ownKey == "" {
		return shopmonkeyKey, nil
	}
	text, err := base64.StdEncoding.DecodeString(ownKey)
	if err != nil {
		return "", fmt.Errorf("read the key that this build was given: %w; stamp the base64 of a key file into it", err)
	}
	return string(text), nil
}

// Keys are public keys that releases may be signed by.
type Keys struct{ ring *crypto.KeyRing }

const armorBegin = "-----BEGIN PGP"

// ParseKeys reads public keys, one or more, armored or binary.
func ParseKeys(text []byte) (*Keys, error) {
	ring, err := readRing(text)
	if err != nil || ring.CountEntities() == 0 {
		return nil, errors.New("read the key that releases are signed by: this is not a PGP public key; write one with: gpg --armor --export KEY")
	}
	for _, k := range ring.GetKeys() {
		if k.IsPrivate() {
			return nil, errors.New("read the key that releases are signed by: this is a private key, which belongs on no other machine; write the public one with: gpg --armor --export KEY")
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

// Fingerprints returns the keys' fingerprints, in groups of four as gpg shows them.
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

// verify checks a detached signature, armored or binary, of what archive yields.
// One signature by one key that is valid now suffices.
func (k *Keys) verify(archive io.Reader, signature []byte, now time.Time) error {
	handle, err := crypto.PGP().Verify().VerificationKeys(k.ring).VerifyTime(now.Unix()).New()
	if err != nil {
		return fmt.Errorf("verify the signature: %w", err)
	}
	reader, err := handle.VerifyingReader(archive, bytes.NewReader(signature), crypto.Auto)
	if err != nil {
		return fmt.Errorf("%w: it can't be read: %w", ErrBadSignature, err)
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
		problem := k.judge(s, now)
		if problem == nil {
			return nil
		}
		problems = append(problems, problem)
	}
	if len(problems) == 0 {
		return fmt.Errorf("%w: there is none in the file", ErrBadSignature)
	}
	return worst(problems)
}

// onlyReader hides everything of a reader but Read.
type onlyReader struct{ io.Reader }

// worst returns the problem that says the most: a key of ours that fails tells
// more than a key of somebody else's.
func worst(problems []error) error {
	for _, p := range problems {
		if !errors.Is(p, ErrUnknownKey) {
			return p
		}
	}
	return problems[0]
}

// judge returns why a signature is not accepted, or nil.
func (k *Keys) judge(s *crypto.VerifiedSignature, now time.Time) error {
	if s.Signature == nil || s.Signature.IssuerKeyId == nil {
		return fmt.Errorf("%w: it does not say who made it", ErrBadSignature)
	}
	id := *s.Signature.IssuerKeyId
	key := k.find(id)
	if key == nil {
		return fmt.Errorf("%w: %016X; trusted is %s", ErrUnknownKey, id, strings.Join(k.Fingerprints(), ", "))
	}
	if made := s.Signature.CreationTime; made.After(now) {
		return fmt.Errorf("%w: it was made at %s, and the clock of this machine says %s; set the clock", ErrBadSignature, made.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
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
		return fmt.Errorf("%w: the one or the other was changed or damaged on its way", ErrBadSignature)
	}
	// A signature of text would be the same with other ends of lines.
	if s.Signature.SigType != 0 {
		return fmt.Errorf("%w: it is a signature of text", ErrBadSignature)
	}
	return nil
}

// find returns the key that has an id, or a subkey of it.
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
