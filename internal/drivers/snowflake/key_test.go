package snowflake

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

// opensslKey is an RSA key that openssl pkcs8 -topk8 -v2 aes-256-cbc encrypted with the passphrase
// "correct horse".
const opensslKey = `-----BEGIN ENCRYPTED PRIVATE KEY-----
MIIFLTBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG9w0BBQwwHAQIwPfXRmfImtoCAggA
MAwGCCqGSIb3DQIJBQAwHQYJYIZIAWUDBAEqBBAy0z9VfMkiJ5rorFQszt2EBIIE
0HJxIyLU+42B2U9y1zTCn4uxZXh9u7yi8daRpiGVHA/mUC0FbfvDt/SbY7YH7wUy
GPBWtJinJx51zx19jA3KGDSriK0bJBQX+lamsd2uqGyXbrG7gFKEHuZe6C+IWayb
vkYyeTaiVaGuNhsEG5Ls+1gL3iDGB1zFtEqBzd5ch5+DLRZWuyNn++E9WO0M4q/l
Yjw0rebLAmKMo2Z/TGLAdnr3YdPHpY5Ktr51s3L+IxiZdO1swiJOnMeqvsInKfbf
KMIDD37LGpymbRpSvMRMLuNjYE4/B+rGVluJuo2Y2YK4i8aiNv8GS1Lcph8dNUzA
O7hoN/dDJ53CD0+ydoxc/18VhTwyZqQgTYQoJeTRFWyHcJ+EGbgANrfUf/EUNRay
/DG0/W+dlKryALaIXHeUEHdkvzuuyDU0TxvbiMtRoB1WKqMT+kEtrEtdgSlPkL5j
jvUXXH65K65uRJRe9Y/2y+MXQ3SakUiejMf/vSffJW3hqAbueAeZzhlyFQ0bTyV0
We/pgorqzbwJHouYrDWUVi6319VmNVmRW4ocbptylVY6NCrkooFL9OsZ96l2z/2f
eWUAWIZRAlhBkKJ0IlpMc3J7wUo7Ab18AsgfMilVWFHA7o4iJH/rLvCQCT49FJaH
J4J8ovQXrMtx0GCZ8vAQaxlvDtpWFelMeqwBm7sUA0r0giDcxyEQ2Re/nttjxxCQ
UJwATNgy4Rthpshzd95iEMemDir2AOA5w/CyMBCpBCYq5YmFPlonYyUeE+gtd0lZ
pT4XkVe2PCPDzmW5+AYYYJWhsSBlfFngUIS5SzGUso536pWTMyqYjFn0UEwU6cy2
NKkR7Ms6gUMisd7w4fVFM7D4Q2JNDeSd5VO8Y7YrEiCoUpEgo9myNF5ZIDNGHkFd
WDDwGbi28qVyt9fUM5AL20Fb+zVA3d8NG8uk3+EEhVGuS3QOouVe7jMNGiRO1ufi
bEefzxMSzVW/67ZVt99WxhC/2tTQKXG4TDCzL97I1NiPvu4Q5GiI+aBpthU7Coco
fAJwXj+yqJvSruOhcX3YbKK9M5ymPsVxRTsqn8gEdK0d/OV1Mw3WZHbLg7QANzKO
mbIN/6VS3mO/sZU/vmYJD5Gj88/B4donbI17p8gOCPBEQybdPfkbUPchoyD8F87l
aQ9kDX4o0deQyQc2+A6N+eCzb8elzcboY08o/8gOINO5ZAkYkrDNnvEQ77eCfnrQ
p/72WwkfMBUY3Y02BiV20FrgSeD5q9oqC8eXfMLbKhq2L/n3foJct+hHv6FZhYgD
LHyNJgcAGTthRvA6GJCHA1uqLQvbvSEfRgKMp1gk+Zw4+vKdsdcN9QMXXo8E1knq
96FC+fGwcKgyhZBpj8lSZKNDmU2wkxqaE+KpGqaGhSDGeqlIl5u5QSdysKUuGOrG
Mf/UNwDGxLHBTov6m20sH3XVqFJbnibfooXTIe1/9dPMD1qOJNaJAnZZY5DWgemb
CEsLLeA6AKWtnhjuLvtPVuBGAOSO0k/WRVTBFKr/xWKLkpx/FsyBazvSxE8Gxm1W
vAoRppgy7SRYY/aqZttC/rdo7EBhnCsk0CZ30r7UpEBQ73OZgT6/JMeldpj8p1Db
dMZlIMHb1xP0DvZxPlKdXNwg80ilniM9rVLbMLka2U92
-----END ENCRYPTED PRIVATE KEY-----`

func TestParseKey_OpenSSLEncrypted(t *testing.T) {
	key, err := parseKey(opensslKey, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := parseKey(opensslKey, "wrong horse"); !errors.Is(err, errWrongPassphrase) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	if _, err := parseKey(opensslKey, ""); err == nil || !strings.Contains(err.Error(), "key-passphrase") {
		t.Errorf("without a passphrase: %v", err)
	}
}

// encrypt encrypts a PKCS#8 key as OpenSSL does.
func encrypt(t testing.TB, der []byte, passphrase string) []byte {
	t.Helper()
	salt, initial := make([]byte, 16), make([]byte, aes.BlockSize)
	if _, err := rand.Read(salt); err != nil {
		t.Fatal(err)
	}
	secret, err := pbkdf2.Key(sha256.New, passphrase, salt, 2048, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	padding := aes.BlockSize - len(der)%aes.BlockSize
	data := append(append([]byte{}, der...), strings.Repeat(string(rune(padding)), padding)...)
	cipher.NewCBCEncrypter(block, initial).CryptBlocks(data, data)
	raw := func(v any) asn1.RawValue {
		b, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return asn1.RawValue{FullBytes: b}
	}
	scheme := pbes2{
		KDF: pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: raw(kdf{
			Salt: salt, Iterations: 2048, PRF: pkix.AlgorithmIdentifier{
				Algorithm:  asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9},
				Parameters: asn1.NullRawValue,
			},
		})},
		Cipher: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, Parameters: raw(initial)},
	}
	out, err := asn1.Marshal(encryptedKey{pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: raw(scheme)}, data})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestParseKey_EveryForm(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	armoured := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, text := range map[string]string{
		"PKCS#8": armoured("PRIVATE KEY", der), "PKCS#1": armoured("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)),
		"base64":            base64.StdEncoding.EncodeToString(der),
		"encrypted":         armoured("ENCRYPTED PRIVATE KEY", encrypt(t, der, "p")),
		"encrypted, base64": base64.StdEncoding.EncodeToString(encrypt(t, der, "p")),
	} {
		if got, err := parseKey(text, "p"); err != nil || !got.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "words": "not a key at all", "cut": armoured("PRIVATE KEY", der[:100]),
		"half encrypted": armoured("ENCRYPTED PRIVATE KEY", encrypt(t, der, "p")[:60]),
	} {
		if _, err := parseKey(text, "p"); err == nil {
			t.Errorf("%s is accepted as a key", name)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(opensslKey, "correct horse")
	f.Add("MIIB", "")
	f.Fuzz(func(t *testing.T, text, passphrase string) {
		if strings.Contains(text, "ENCRYPTED") && len(text) > len(opensslKey) {
			return // more iterations of the key derivation would test nothing new
		}
		key, err := parseKey(text, passphrase)
		if (key == nil) == (err == nil) {
			t.Errorf("key %v, error %v", key, err)
		}
	})
}
