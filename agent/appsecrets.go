package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/statefulset/kube"
)

const (
	secretPrefix = "sealane-"
	// secretsTick is how often the Secrets of applications are looked at, and
	// secretsRefresh how often they are written again although nothing changed:
	// somebody may have.
	secretsTick    = 5 * time.Second
	secretsRefresh = time.Minute
	// credsLife is how long the credentials in a Secret are good. They are renewed
	// after a third of it.
	credsLife = 7 * 24 * time.Hour
	// anyNamespace permits every namespace.
	anyNamespace = "*"
)

// appSecrets keeps a Secret with credentials for each application account in the
// namespaces that the account permits and the agent may write in.
type appSecrets struct {
	*member
	client *kube.Client
	// granted are the namespaces that the agent may write in.
	granted []string
	file    string
	now     func() time.Time

	// mu guards written: the applier asks whose access has ended.
	mu sync.Mutex
	// written is what is there or was, by namespace and account: it is on the disk
	// before the Secret is written, so that none is forgotten. Nil: not read yet.
	written map[string]appSecret
	applied map[string]applied
	said    map[string]string
}

type appSecret struct {
	Namespace string    `json:"namespace"`
	Account   string    `json:"account"`
	Issued    time.Time `json:"issued"`
	// Ended: what was issued until then is worth nothing any more. It is remembered
	// until all of it has expired.
	Ended time.Time `json:"ended,omitzero"`
	// Lost tells that there is no access now, Gone that the Secret is removed too.
	Lost bool `json:"lost,omitempty"`
	Gone bool `json:"gone,omitempty"`
}

func (s appSecret) key() string { return s.Namespace + "/" + s.Account }

type applied struct {
	hash [sha256.Size]byte
	at   time.Time
}

// secrets makes the keeper of Secrets. Also where no namespace is granted: those
// that were written while one was are removed.
func (k *KubernetesOptions) secrets(m *member, dataDir string) *appSecrets {
	return &appSecrets{
		member: m, client: k.Client, granted: k.CredentialNamespaces, file: filepath.Join(dataDir, "secrets.json"), now: time.Now,
		applied: map[string]applied{}, said: map[string]string{},
	}
}

// run keeps the Secrets until ctx ends.
func (s *appSecrets) run(ctx context.Context) {
	for {
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.complain("", err)
		}
		if !sleep(ctx, secretsTick) {
			return
		}
	}
}

// complain logs an error once.
func (s *appSecrets) complain(key string, err error) {
	if err == nil {
		delete(s.said, key)
		return
	}
	if s.said[key] != err.Error() {
		s.said[key] = err.Error()
		s.log.Warn("credentials for applications are not as they shall be", "secret", key, "error", err)
	}
}

func (s *appSecrets) pass(ctx context.Context) error {
	present, ended, err := s.note(s.want())
	if err != nil {
		return err
	}
	if ended {
		s.wakeApplier() // the users stop to work whether or not the Secrets can be removed
	}
	for _, w := range present {
		var err error
		switch {
		case !w.Lost:
			err = s.write(ctx, w)
		case !w.Gone:
			err = s.remove(ctx, w)
		}
		s.complain(w.key(), err)
	}
	return nil
}

// revoke ends the users of an account in the namespaces that lost access to it.
func (s *appSecrets) revoke(account string, c *jwt.AccountClaims) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	for _, w := range s.written {
		if w.Account == account && !w.Ended.IsZero() {
			broker.RevokeUser(c, s.keyring.AppUserIn(account, w.Namespace), w.Ended)
		}
	}
	return nil
}

// want is which Secrets there shall be.
func (s *appSecrets) want() map[string]bool {
	want := map[string]bool{}
	for _, p := range s.holder.now().parts {
		a := p.GetAccount()
		if !a.GetApplication() {
			continue
		}
		for _, ns := range s.granted {
			if slices.Contains(a.Namespaces, ns) || slices.Contains(a.Namespaces, anyNamespace) {
				want[appSecret{Namespace: ns, Account: a.Name}.key()] = true
			}
		}
	}
	return want
}

// note begins with what is new, renews what is old, ends what is not wanted any more and
// forgets what has expired, on the disk first. It returns all that there is, and whether
// something has ended.
func (s *appSecrets) note(want map[string]bool) (present []appSecret, ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return nil, false, err
	}
	now := s.now().UTC().Truncate(time.Second)
	next := maps.Clone(s.written)
	for key := range want {
		w, ok := next[key]
		if ok && !w.Lost && now.Sub(w.Issued) < credsLife/3 {
			continue
		}
		ns, account, _ := strings.Cut(key, "/")
		w = appSecret{Namespace: ns, Account: account, Issued: now, Ended: w.Ended}
		if !w.Issued.After(w.Ended) {
			w.Issued = w.Ended.Add(time.Second)
		}
		next[key] = w
	}
	for key, w := range next {
		if !want[key] && !w.Lost {
			w.Lost, w.Ended = true, now
			if w.Issued.After(now) {
				w.Ended = w.Issued
			}
			ended = true
		}
		if now.Sub(w.Ended) > credsLife {
			w.Ended = time.Time{}
		}
		if next[key] = w; w.Gone && w.Ended.IsZero() {
			delete(next, key)
		}
	}
	if err := s.save(next); err != nil {
		return nil, false, err
	}
	for _, key := range slices.Sorted(maps.Keys(next)) {
		present = append(present, next[key])
	}
	return present, ended, nil
}

func (s *appSecrets) write(ctx context.Context, w appSecret) error {
	creds, err := broker.UserCredsIn(s.keyring, w.Account, w.Namespace, w.Issued, w.Issued.Add(credsLife))
	if err != nil {
		return err
	}
	var ca []byte
	if m, ok := s.rt.(broker.Measurer); ok {
		ca = m.ClientCA()
	}
	data := kube.Object{}
	for k, v := range map[string][]byte{"url": []byte(s.rt.ClientURL()), "ca.crt": ca, "user.creds": creds} {
		data[k] = base64.StdEncoding.EncodeToString(v)
	}
	o := kube.Object{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
		"metadata": kube.Object{
			"name": secretPrefix + w.Account, "namespace": w.Namespace,
			"labels": kube.Object{
				"app.kubernetes.io/managed-by": "sealane-agent", "app.kubernetes.io/part-of": "sealane", "sealane.io/member": s.name,
			},
		},
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(b)
	if was := s.applied[w.key()]; was.hash == hash && s.now().Sub(was.at) < secretsRefresh {
		return nil
	}
	if err := s.client.Apply(ctx, o); err != nil {
		return err
	}
	s.applied[w.key()] = applied{hash, s.now()}
	return nil
}

func (s *appSecrets) remove(ctx context.Context, w appSecret) error {
	if err := s.client.Delete(ctx, "v1/Secret", w.Namespace, secretPrefix+w.Account); err != nil {
		return err
	}
	delete(s.applied, w.key())
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.written)
	w.Gone = true
	next[w.key()] = w
	return s.save(next)
}

// load reads what is on the disk, once. mu is held.
func (s *appSecrets) load() error {
	if s.written != nil {
		return nil
	}
	b, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		s.written = map[string]appSecret{}
		return nil
	}
	var l []appSecret
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return fmt.Errorf("which Secrets there are of applications cannot be read: %w", err)
	}
	s.written = map[string]appSecret{}
	for _, w := range l {
		s.written[w.key()] = w
	}
	return nil
}

// save makes next what is there, on the disk first. mu is held.
func (s *appSecrets) save(next map[string]appSecret) error {
	l := []appSecret{}
	for _, w := range next {
		l = append(l, w)
	}
	slices.SortFunc(l, func(a, b appSecret) int { return cmp.Compare(a.key(), b.key()) })
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(s.file); err != nil || string(have) != string(b) {
		if err := broker.WriteFile(s.file, b, 0o600); err != nil {
			return err
		}
	}
	s.written = next
	return nil
}
