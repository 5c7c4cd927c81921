//go:build e2e

package kind

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// A volume of which little is needed to fill it, on the node of the hub.
const (
	smallDir  = "/var/e2e-small"
	smallMiB  = 96
	smallSpec = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-small}
spec:
  capacity: {storage: %dMi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: e2e-small
  hostPath: {path: %s}
`
)

// full fills the volume of a member that stands alone, until little of it is left:
// the hub says so while everything works, and no more after a purge.
func full(t *testing.T, f *federation, p plan) {
	const lima = "lima"
	if _, err := hub.Exec(t.Context(), "sh", "-c", fmt.Sprintf("mkdir -p %[1]s && mount -t tmpfs -o size=%[2]dm,mode=0777 tmpfs %[1]s", smallDir, smallMiB)); err != nil {
		t.Fatal(err)
	}
	apply(t, hub, lima, fmt.Sprintf(smallSpec, smallMiB, smallDir)+"---"+fmt.Sprintf(clientService, lima, clientPort))
	agent := present(t).images["sealane-agent"]
	load(t, agent, hub)
	name, tag, _ := cutLast(agent.ref, ":")
	if out, err := hub.Helm(t.Context(), "install", "sealane-agent", present(t).chart("agent"), "--namespace", lima,
		"--set", "image.repository="+name, "--set-string", "image.tag="+tag, "--set", "image.pullPolicy=Never",
		"--set", "name="+lima, "--set", "hub="+hubAddress(), "--set", "token="+f.token(t, lima),
		"--set", "credentialNamespaces={"+applications+"}", "--set", "broker.linkService.enabled=false",
		"--set", fmt.Sprintf("broker.volume.size=%dMi", smallMiB), "--set", "broker.volume.storageClass=e2e-small"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f.members[lima] = &onKubernetes{cluster: hub, kube: clientOf(t, hub)}
	m := memberCluster(lima)
	f.wait(t, m, v1alpha1.ConditionConnected, metav1.ConditionTrue)
	groups := p.world.Spec.Groups
	update(t, f, p.world, func(w *v1alpha1.MessagingTopology) {
		w.Spec.Groups = append(w.Spec.Groups, v1alpha1.Group{Name: "small", Clusters: []string{lima}})
	})
	ballast := &v1alpha1.Stream{ObjectMeta: named("ballast"), Spec: v1alpha1.StreamSpec{
		Account: "app", Placement: at(lima), Subjects: []string{"ballast.>"}, OnRemoval: v1alpha1.RemovalDelete,
	}}
	f.create(t, ballast)
	f.ready(t, p.world, ballast)

	js := jetStream(t, f.connect(t, lima))
	store := func() {
		t.Helper()
		if _, err := js.Publish(t.Context(), "ballast.x", make([]byte, 256<<10)); err != nil {
			t.Fatalf("with %d bytes free: %v", free(t), err)
		}
	}
	f.wait(t, m, v1alpha1.ConditionReady, metav1.ConditionTrue)
	if warned(m) {
		t.Fatal("an empty volume is called nearly full")
	}
	for free(t) > smallMiB<<20*9/100 { // the warning is due at a tenth
		for range 8 {
			store()
		}
	}
	start := time.Now()
	f.wait(t, m, v1alpha1.ConditionStorageNearlyFull, metav1.ConditionTrue)
	c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionStorageNearlyFull)
	t.Logf("reported after %v with %d KiB free: %s", time.Since(start).Round(time.Millisecond), free(t)>>10, c.Message)
	if !strings.Contains(c.Message, "volume") || !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("conditions are %+v", m.Status.Conditions)
	}
	store() // nothing has come to harm
	stream, err := js.Stream(t.Context(), "ballast")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(t, m, v1alpha1.ConditionStorageNearlyFull, metav1.ConditionFalse)
	store()

	update(t, f, p.world, func(w *v1alpha1.MessagingTopology) { w.Spec.Groups = groups })
	update(t, f, m, func(m *v1alpha1.MemberCluster) { m.Spec.Removal = v1alpha1.LeaveForget })
	for _, o := range []client.Object{ballast, m} {
		if err := f.kube.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	f.gone(t, lima)
	if out, err := hub.Helm(t.Context(), "uninstall", "sealane-agent", "--namespace", lima); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kubectl(t, hub, "delete", "namespace", lima, "--wait=false")
	delete(f.members, lima)
	eventually(t, 3*time.Minute, "pods of "+lima+" are gone", func() error {
		var pods corev1.PodList
		if err := f.kube.List(t.Context(), &pods, client.InNamespace(lima)); err != nil || len(pods.Items) > 0 {
			return fmt.Errorf("%d pods: %w", len(pods.Items), err)
		}
		return nil
	})
	p.ready(t, f)
}

func warned(m *v1alpha1.MemberCluster) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionStorageNearlyFull)
}

// free is how many bytes of the small volume are.
func free(t testing.TB) int {
	t.Helper()
	out, err := hub.Exec(t.Context(), "df", "-B1", "--output=avail", smallDir)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(out)
	n, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		t.Fatalf("df says %q", out)
	}
	return n
}
