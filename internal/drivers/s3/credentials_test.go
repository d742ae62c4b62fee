package s3

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

const far = "2099-01-01T00:00:00Z"

// amazon is a fake of the AWS services that issue keys. The map answers holds their answers by
// method and path, or by action. The map asked counts requests by the same keys.
func amazon(t *testing.T, answers map[string]string) (address string, asked map[string]int) {
	asked = make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		place := r.Method + " " + r.URL.Path
		if action := r.Form.Get("Action"); action != "" {
			place = action
		}
		asked[place]++
		answer, ok := answers[place]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

// keysIn returns the keys of the privileged account as JSON. The parameter token is the name of the
// field for the session token.
func keysIn(token string) string {
	return fmt.Sprintf(`{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,%q:"","Expiration":%q}`, peers.S3Key, peers.S3Secret, token,
		far)
}

func stsAnswer(action string) string {
	return fmt.Sprintf(`<%[1]sResponse><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId>`+
		`<SecretAccessKey>%[3]s</SecretAccessKey><SessionToken></SessionToken>`+
		`<Expiration>%[4]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
		action, peers.S3Key, peers.S3Secret, far)
}

// TestCredentials_ComeFromEachSource makes each credential source of AWS the only source in turn,
// and writes a change with its keys.
func TestCredentials_ComeFromEachSource(t *testing.T) {
	server := peers.S3(t)
	bucket := server.Bucket(t)
	write := func(t *testing.T, query string) {
		t.Helper()
		mustApply(t, mustOpen(t, "s3://"+server.Addr()+"/"+newPrefix(bucket)+query), order(t, 1))
	}
	file := func(t *testing.T, name, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("a web identity, as IRSA has it", func(t *testing.T) {
		address, asked := amazon(t, map[string]string{"AssumeRoleWithWebIdentity": stsAnswer("AssumeRoleWithWebIdentity")})
		t.Setenv("AWS_ENDPOINT_URL_STS", address)
		t.Setenv("AWS_REGION", "eu-west-1")
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/eds")
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file(t, "token", "a token"))
		write(t, "")
		if asked["AssumeRoleWithWebIdentity"] == 0 {
			t.Errorf("it asked for %v", asked)
		}
	})
	t.Run("the role of a container", func(t *testing.T) {
		address, asked := amazon(t, map[string]string{"GET /role": keysIn("Token")})
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address+"/role")
		write(t, "")
		if asked["GET /role"] == 0 {
			t.Errorf("it asked for %v", asked)
		}
	})
	t.Run("the role of an instance", func(t *testing.T) {
		const roles = "GET /latest/meta-data/iam/security-credentials/"
		address, asked := amazon(t, map[string]string{"PUT /latest/api/token": "a token", roles: "eds", roles + "eds": keysIn("Token")})
		t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
		write(t, "")
		if asked["PUT /latest/api/token"] == 0 || asked[roles+"eds"] == 0 {
			t.Errorf("it asked for %v", asked)
		}
	})
	t.Run("a profile that assumes a role", func(t *testing.T) {
		address, asked := amazon(t, map[string]string{"AssumeRole": stsAnswer("AssumeRole")})
		t.Setenv("AWS_ENDPOINT_URL_STS", address)
		t.Setenv("AWS_CONFIG_FILE", file(t, "config", "[profile base]\naws_access_key_id = a\naws_secret_access_key = b\n[profile "+
			"shop]\nregion = eu-west-1\nrole_arn = arn:aws:iam::123456789012:role/eds\nsource_profile = base\n"))
		write(t, "?profile=shop")
		if asked["AssumeRole"] == 0 {
			t.Errorf("it asked for %v", asked)
		}
	})
	t.Run("a profile that signs on", func(t *testing.T) {
		address, asked := amazon(t, map[string]string{"GET /federation/credentials": fmt.Sprintf(`{"roleCredentials":{"accessKeyId":%q,`+
			`"secretAccessKey":%q,"sessionToken":"","expiration":4070908800000}}`,
			peers.S3Key, peers.S3Secret)})
		t.Setenv("AWS_ENDPOINT_URL_SSO", address)
		sum := sha1.Sum([]byte("corp"))
		token := file(t, ".aws/sso/cache/"+hex.EncodeToString(sum[:])+".json", fmt.Sprintf(`{"accessToken":"a token","expiresAt":%q}`, far))
		t.Setenv("HOME", filepath.Join(filepath.Dir(token), "..", "..", ".."))
		t.Setenv("AWS_CONFIG_FILE", file(t, "config", "[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = "+
			"https://corp.example.com\n[profile shop]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = eds\n"))
		write(t, "?profile=shop")
		if asked["GET /federation/credentials"] == 0 {
			t.Errorf("it asked for %v", asked)
		}
	})
	t.Run("a process", func(t *testing.T) {
		keys := file(t, "keys", fmt.Sprintf(`{"Version":1,"AccessKeyId":%q,"SecretAccessKey":%q}`, peers.S3Key, peers.S3Secret))
		t.Setenv("AWS_CONFIG_FILE", file(t, "config", "[profile shop]\ncredential_process = cat "+keys+"\n"))
		write(t, "?profile=shop")
	})
}
