package embedded

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/sealane/sealane/broker"
)

// TestClockThatWasWrong: claims that were signed while the clock was a year ahead
// are followed by newer ones when it is right again. A server keeps the newest.
func TestClockThatWasWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keyring, err := broker.LoadOrCreateKeyring(filepath.Join(t.TempDir(), "seed"))
	if err != nil {
		t.Fatal(err)
	}
	account := keyring.Account("app")
	claims := jwt.NewAccountClaims(account.Public)
	claims.Name = "app"
	ahead := time.Now().AddDate(1, 0, 0).Truncate(time.Second)
	token, err := broker.Sign(claims, keyring.Operator(), ahead)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, account.Public+jwtSuffix), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	for round := range 3 { // each as after a restart
		b, err := openBook(dir, keyring, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		claims.Limits.Conn = int64(100 + round)
		if err := b.settleOne("app", claims); err != nil {
			t.Fatal(err)
		}
		stored, err := os.ReadFile(b.path(account.Public))
		if err != nil {
			t.Fatal(err)
		}
		got, err := jwt.DecodeAccountClaims(string(stored))
		if err != nil {
			t.Fatal(err)
		}
		if !time.Unix(got.IssuedAt, 0).After(ahead) || got.Limits.Conn != claims.Limits.Conn {
			t.Errorf("round %d: issued %v with %d connections, want later than %v and %d", round, time.Unix(got.IssuedAt, 0), got.Limits.Conn, ahead, claims.Limits.Conn)
		}
		ahead = time.Unix(got.IssuedAt, 0)
	}
}
