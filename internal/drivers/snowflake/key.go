package snowflake

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"strings"

	sf "github.com/snowflakedb/gosnowflake"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// readKey sets the private key from an environment variable or a file, and decrypts the key if it
// is encrypted.
func (a *account) readKey(v sink.Values, lookup sink.Lookup) error {
	a.authenticator = sf.AuthTypeJwt
	if a.user == "" {
		return errors.New("the snowflake-keypair url lacks the user; " +
			"write snowflake-keypair://user@myorg-account/database/schema?secret-key=ENV_VAR")
	}
	name, file := v.Text("secret-key"), v.Text("private-key-file")
	var text string
	switch {
	case name != "" && file != "":
		return errors.New("the snowflake-keypair url has both secret-key and private-key-file; leave one out")
	case name != "":
		value, err := variable(lookup, "secret-key", name)
		if err != nil {
			return err
		}
		text = value
	case file != "":
		content, err := v.File("private-key-file")
		if err != nil {
			return err
		}
		text = string(content)
	default:
		return errors.New("the snowflake-keypair url names no key; add secret-key=ENV_VAR, or private-key-file=/path")
	}
	var passphrase string
	if name := v.Text("key-passphrase"); name != "" {
		value, err := variable(lookup, "key-passphrase", name)
		if err != nil {
			return err
		}
		passphrase = value
	}
	key, err := parseKey(text, passphrase)
	if err != nil {
		return fmt.Errorf("read the private key: %w", err)
	}
	a.key = key
	return nil
}

// variable returns the value of an environment variable. The parameter name is the variable's name,
// as the operator gave it in the option. The error does not contain name, because the operator may
// have given the secret itself.
func variable(lookup sink.Lookup, option, name string) (string, error) {
	if lookup != nil {
		if value, ok := lookup(name); ok && value != "" {
			return value, nil
		}
	}
	if len(name) > 64 || strings.ContainsAny(name, " +/=\n-") {
		return "", fmt.Errorf("option %s should be the name of an environment variable, not the secret itself", option)
	}
	return "", fmt.Errorf("option %s names an environment variable that is not set", option)
}

// parseKey reads an RSA private key in PKCS#8 or PKCS#1 form, encoded as PEM or as base64 of the
// DER. The passphrase is used only if the key is encrypted.
func parseKey(text, passphrase string) (*rsa.PrivateKey, error) {
	text = strings.TrimSpace(strings.ReplaceAll(text, `\n`, "\n"))
	var der []byte
	encrypted := false
	if block, _ := pem.Decode([]byte(text)); block != nil {
		der, encrypted = block.Bytes, block.Type == "ENCRYPTED PRIVATE KEY"
		if block.Headers["DEK-Info"] != "" {
			return nil, errors.New("it is encrypted in the old form of OpenSSL; convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc")
		}
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil {
			return nil, errors.New("it is neither PEM nor base64")
		}
		encrypted = isEncrypted(der)
	}
	if encrypted {
		if passphrase == "" {
			return nil, errors.New("it is encrypted; add key-passphrase=ENV_VAR with the name of the variable that holds the passphrase")
		}
		var err error
		if der, err = decrypt(der, passphrase); err != nil {
			return nil, err
		}
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if encrypted {
			return nil, errWrongPassphrase
		}
		return nil, errors.New("it is not PKCS#8; convert it with openssl pkcs8 -topk8 -nocrypt")
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("it is not an RSA key, which Snowflake requires")
	}
	return private, nil
}

var errWrongPassphrase = errors.New("the passphrase does not match the key")

// ASN.1 structures of an encrypted private key (RFC 5958 section 3, RFC 8018 appendix A).
type (
	encryptedKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbes2 struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	kdf   struct {
		Salt       []byte
		Iterations int
		Length     int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
	}
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
)

// prfs and ciphers are the algorithms that OpenSSL uses to encrypt keys, by object identifier. The
// length of a cipher is the size of its key, in bytes.
var (
	prfs = map[string]func() hash.Hash{
		"": sha1.New, "1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.9": sha256.New, "1.2.840.113549.2.11": sha512.New,
	}
	ciphers = map[string]struct {
		length int
		block  func([]byte) (cipher.Block, error)
	}{
		"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
		"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
		"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
		"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
	}
)

func isEncrypted(der []byte) bool {
	var k encryptedKey
	_, err := asn1.Unmarshal(der, &k)
	return err == nil
}

// maxIterations is the maximum number of iterations of a key derivation. It limits the duration of
// the derivation.
const maxIterations = 2_000_000

// decrypt decrypts a private key that is encrypted with PBES2, and returns the PKCS#8 key in DER
// form.
func decrypt(der []byte, passphrase string) ([]byte, error) {
	var (
		k       encryptedKey
		scheme  pbes2
		derive  kdf
		initial []byte
	)
	unsupported := errors.New("its encryption is not supported; convert it with openssl pkcs8 -topk8 -v2 aes-256-cbc")
	if _, err := asn1.Unmarshal(der, &k); err != nil || !k.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, unsupported
	}
	if _, err := asn1.Unmarshal(k.Algorithm.Parameters.FullBytes, &scheme); err != nil || !scheme.KDF.Algorithm.Equal(oidPBKDF2) {
		return nil, unsupported
	}
	_, err := asn1.Unmarshal(scheme.KDF.Parameters.FullBytes, &derive)
	if err != nil || derive.Iterations < 1 || derive.Iterations > maxIterations {
		return nil, unsupported
	}
	prf, known := prfs[derive.PRF.Algorithm.String()]
	c, supported := ciphers[scheme.Cipher.Algorithm.String()]
	if _, err := asn1.Unmarshal(scheme.Cipher.Parameters.FullBytes, &initial); err != nil || !known || !supported {
		return nil, unsupported
	}
	secret, err := pbkdf2.Key(prf, passphrase, derive.Salt, derive.Iterations, c.length)
	if err != nil {
		return nil, unsupported
	}
	block, err := c.block(secret)
	if err != nil || len(initial) != block.BlockSize() || len(k.Data) == 0 || len(k.Data)%block.BlockSize() != 0 {
		return nil, unsupported
	}
	plain := make([]byte, len(k.Data))
	cipher.NewCBCDecrypter(block, initial).CryptBlocks(plain, k.Data)
	padding := int(plain[len(plain)-1])
	if padding < 1 || padding > block.BlockSize() {
		return nil, errWrongPassphrase
	}
	return plain[:len(plain)-padding], nil
}
